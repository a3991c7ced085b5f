"""Published ImageNet results of each network, for comparison with our counts."""

from typing import NamedTuple


class Result(NamedTuple):
  """One row of a published table.

  Attributes:
    network: its name in the registry, or the two-stage model's.
    width, resolution: multiplier and pixels.
    madds, params: millions, as published; None if they were not.
    top1: percent on ImageNet's validation images.
    source: where it was published.
  """

  network: str
  width: float
  resolution: int
  madds: float | None
  params: float | None
  top1: float
  source: str


_SLIM_V1 = "slim's mobilenet_v1.md"
_SLIM_V2 = "slim's mobilenet README"
_V3 = 'Howard et al. 2019'
_D_LI14 = 'd-li14/mobilenetv3.pytorch'
_EFFICIENTNET = "TPU models' EfficientNet README (AutoAugment)"
_LITE = "TPU models' EfficientNet-Lite README"  # Its MAdds are 3 to 6% above the products alone.
_CONDCONV = "TPU models' CondConv README"
_FBNET = "mobile-vision's model zoo"
_OFA = "once-for-all's model zoo"
_TORCHVISION = "torchvision's table of weights (V1)"
_IMGCLSMOB = "imgclsmob's table, of Gluon"  # Its MAdds count more than products.
_BASISNET = "the BasisNet paper's table 1"

# Multiply-adds and parameters in millions, top-1 in percent.
RESULTS = (
  Result('mobilenet_v1', 1.0, 224, 569, 4.24, 70.9, _SLIM_V1),
  Result('mobilenet_v1', 0.5, 224, 150, 1.34, 63.3, _SLIM_V1),
  Result('mobilenet_v2', 1.4, 224, 582, 6.06, 75.0, _SLIM_V2),
  Result('mobilenet_v2', 1.0, 224, 300, 3.47, 71.8, _SLIM_V2),
  Result('mobilenet_v2', 0.75, 224, 209, 2.61, 69.8, _SLIM_V2),
  Result('mobilenet_v2', 0.5, 224, 97, 1.95, 65.4, _SLIM_V2),
  Result('mobilenet_v2', 0.35, 224, 59, 1.66, 60.3, _SLIM_V2),
  Result('mobilenet_v3_large', 1.0, 224, 219, 5.4, 75.2, _V3),
  Result('mobilenet_v3_large', 0.75, 224, 155, 4.0, 73.3, _V3),
  Result('mobilenet_v3_small', 1.0, 224, 56.52, 2.543, 67.2, _D_LI14),
  Result('mobilenet_v3_small', 0.75, 224, 44, 2.4, 65.4, _V3),
  Result('efficientnet_b0', 1.0, 224, 391, 5.3, 77.1, _EFFICIENTNET),
  Result('efficientnet_b1', 1.0, 240, 700, 7.8, 79.1, _EFFICIENTNET),
  Result('efficientnet_b2', 1.0, 260, 1000, None, 80.1, _EFFICIENTNET),
  Result('efficientnet_lite0', 1.0, 224, 407, 4.7, 75.1, _LITE),
  Result('efficientnet_lite1', 1.0, 240, 631, 5.4, 76.7, _LITE),
  Result('efficientnet_lite2', 1.0, 260, 899, 6.1, 77.6, _LITE),
  Result('efficientnet_lite3', 1.0, 280, 1440, 8.2, 79.8, _LITE),
  Result('efficientnet_lite4', 1.0, 300, 2640, 13.0, 81.5, _LITE),
  Result('fbnet_v3_a', 1.0, 224, 356.6, 8.54, 79.57, _FBNET),
  Result('fbnet_v3_b', 1.0, 248, 461.6, 8.54, 80.21, _FBNET),
  Result('fbnet_v3_c', 1.0, 248, 557.0, 9.91, 80.83, _FBNET),
  Result('fbnet_v3_d', 1.0, 248, 644.4, 10.24, 81.04, _FBNET),
  Result('fbnet_v3_e', 1.0, 264, 762.0, 10.70, 81.25, _FBNET),
  Result('fbnet_v3_f', 1.0, 272, 1181.6, 13.80, 82.06, _FBNET),
  Result('fbnet_v3_g', 1.0, 320, 2129.7, 16.51, 82.79, _FBNET),
  Result('once_for_all_389m', 1.0, 224, 389, 8.4, 79.1, _OFA),
  Result('once_for_all_482m', 1.0, 224, 482, 9.1, 79.6, _OFA),
  Result('once_for_all_595m', 1.0, 236, 595, 9.1, 80.0, _OFA),
  Result('resnet_10', 1.0, 224, 894, 5.419, 67.46, _IMGCLSMOB),
  Result('resnet_18', 1.0, 224, 1814, 11.690, 69.76, _TORCHVISION),
  Result('resnet_50', 1.0, 224, 4089, 25.557, 76.13, _TORCHVISION),
  Result('condconv_mobilenet_v2', 1.0, 224, 329, None, 74.6, _BASISNET),
  Result('condconv_efficientnet_b0', 1.0, 224, 413, 24.0, 78.3, _CONDCONV),
  Result('dynamic_convolution_mobilenet_v2', 1.0, 224, 313, None, 75.2, _BASISNET),
  Result('basisnet', 1.0, 224, 290, None, 80.3, 'Zhang et al. 2021, abstract'),
)
