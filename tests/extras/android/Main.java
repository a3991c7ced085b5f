import android.graphics.Bitmap;
import java.nio.ByteBuffer;
import org.tensorflow.lite.Interpreter;

/** Prints what Network sees of a photo and what it answers, a line each. */
final class Main {
  public static void main(String[] arguments) throws Exception {
    Bitmap photo = Bitmap.read(arguments[3]);
    ByteBuffer pixels = Network.pixels(photo);
    float[] seen = new float[pixels.capacity() / 4];
    pixels.rewind();
    pixels.asFloatBuffer().get(seen);
    print(seen);
    print(Network.answer(new Interpreter(arguments[0], arguments[1], arguments[2]), photo));
  }

  private static void print(float[] values) {
    StringBuilder line = new StringBuilder();
    for (float value : values) line.append(value).append(' ');
    System.out.println(line);
  }
}
