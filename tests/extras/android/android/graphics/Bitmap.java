package android.graphics;

import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import javax.imageio.ImageIO;

/** Android's class, as far as it is asked; scaled, each pixel is made of four. */
public final class Bitmap {
  private final int width;
  private final int height;
  private final int[] colors;

  private Bitmap(int width, int height) {
    this.width = width;
    this.height = height;
    colors = new int[width * height];
  }

  public static Bitmap read(String file) throws IOException {
    BufferedImage image = ImageIO.read(new File(file));
    Bitmap made = new Bitmap(image.getWidth(), image.getHeight());
    image.getRGB(0, 0, made.width, made.height, made.colors, 0, made.width);
    return made;
  }

  public static Bitmap createBitmap(Bitmap source, int x, int y, int width, int height) {
    Bitmap made = new Bitmap(width, height);
    source.getPixels(made.colors, 0, width, x, y, width, height);
    return made;
  }

  public static Bitmap createScaledBitmap(Bitmap source, int width, int height, boolean filter) {
    if (!filter) throw new IllegalArgumentException("Only with a filter.");
    Bitmap made = new Bitmap(width, height);
    for (int y = 0; y < height; y++) {
      double v = clamp((y + 0.5) * source.height / height - 0.5, source.height);
      for (int x = 0; x < width; x++) {
        double u = clamp((x + 0.5) * source.width / width - 0.5, source.width);
        made.colors[y * width + x] = source.between(u, v);
      }
    }
    return made;
  }

  public int getWidth() {
    return width;
  }

  public int getHeight() {
    return height;
  }

  public void getPixels(
      int[] pixels, int offset, int stride, int x, int y, int width, int height) {
    for (int row = 0; row < height; row++) {
      System.arraycopy(colors, (y + row) * this.width + x, pixels, offset + row * stride, width);
    }
  }

  private static double clamp(double at, int size) {
    return Math.max(0, Math.min(size - 1, at));
  }

  private int between(double u, double v) {
    int left = (int) u, top = (int) v, color = 0xff;
    int right = Math.min(left + 1, width - 1), bottom = Math.min(top + 1, height - 1);
    for (int shift = 16; shift >= 0; shift -= 8) {
      double above = mixed(part(left, top, shift), part(right, top, shift), u - left);
      double below = mixed(part(left, bottom, shift), part(right, bottom, shift), u - left);
      color = color << 8 | (int) Math.round(mixed(above, below, v - top));
    }
    return color;
  }

  private int part(int x, int y, int shift) {
    return colors[y * width + x] >> shift & 255;
  }

  private static double mixed(double a, double b, double share) {
    return a + share * (b - a);
  }
}
