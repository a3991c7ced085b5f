"""How an Android app runs an export's model.tflite: a section of its README, with Java."""

from collections.abc import Mapping, Sequence
import textwrap
from typing import Any

from basisnet_jax.inference import exporting

_CLASS = """\
import android.graphics.Bitmap;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Map;
import org.tensorflow.lite.Interpreter;

final class Network {{
  static final int SIDE = {side};

  /** Probabilities of the labels of model.json, in their order; for one thread at a time. */
  static float[] answer(Interpreter model, Bitmap photo) {{
    ByteBuffer images = pixels(photo);
{calls}
    return probabilities[0];
  }}

  /** What the network sees of an upright photo: of its central square, RGB / 127.5 - 1. */
  static ByteBuffer pixels(Bitmap photo) {{
    int width = photo.getWidth(), height = photo.getHeight();
    int side = (int) Math.rint({crop} * Math.min(width, height));
    Bitmap square = Bitmap.createBitmap(photo, (width - side) / 2, (height - side) / 2, side, side);
    // By halves: in one step each pixel would be made of four, however many it stands for.
    for (side /= 2; side >= SIDE; side /= 2) {{
      square = Bitmap.createScaledBitmap(square, side, side, true);
    }}
    square = Bitmap.createScaledBitmap(square, SIDE, SIDE, true);
    int[] colors = new int[SIDE * SIDE];
    square.getPixels(colors, 0, SIDE, 0, 0, SIDE, SIDE);
    ByteBuffer images = ByteBuffer.allocateDirect(12 * colors.length);
    images.order(ByteOrder.nativeOrder());
    for (int color : colors) {{
      for (int shift = 16; shift >= 0; shift -= 8) {{
        images.putFloat((color >> shift & 255) / 127.5f - 1);
      }}
    }}
    return images;
  }}
}}"""


def readme(
  programs: Sequence[exporting.Program], handed_on: Sequence[str], about: Mapping[str, Any]
) -> str:
  """Returns the section.

  Args:
    programs: of the network, one for each stage.
    handed_on: from `exporting.handed_on`.
    about: the contents of model.json.
  """
  text = _CLASS.format(
    side=about['resolution'], crop=about['crop'], calls=_calls(programs, handed_on, about)
  )
  return f"""
## Android

`model` is an `Interpreter` of `model.tflite`, from
`implementation("com.google.ai.edge.litert:litert:2.1.0")` or newer; `photo` comes from
`ImageDecoder`, which turns it upright, with `ALLOCATOR_SOFTWARE`, without which apps cannot read
its pixels.

```java
{text}
```
"""


def _calls(programs, handed_on, about):
  """Lines of Java for one stage or two."""
  first, *later = programs
  asked = [name for name in first.outputs if name in ('probabilities', 'confidence', *handed_on)]
  lines, shapes = [], first.gives()
  for name in asked:
    sizes = ''.join(f'[{size}]' for size in (1, *shapes[name]))
    lines.append(f'float{"[]" * (1 + len(shapes[name]))} {name} = new float{sizes};')
  lines += _call(first.name, first.inputs, asked)
  for part in later:
    lines.append(f'if (!(confidence[0] >= {float(about["threshold"])}f)) {{')
    lines += [f'  {line}' for line in _call(part.name, handed_on, part.outputs)]
    lines.append('}')
  return '\n'.join(f'    {line}' for line in lines)


def _call(name, inputs, outputs):
  lines = ['model.runSignature(']
  for names in (inputs, outputs):
    pairs = ', '.join(f'"{key}", {key}' for key in names)
    wide = {'width': 90, 'initial_indent': 4 * ' ', 'subsequent_indent': 8 * ' '}
    lines += textwrap.wrap(f'Map.of({pairs}),', **wide)
  return [*lines, f'    "{name}");']
