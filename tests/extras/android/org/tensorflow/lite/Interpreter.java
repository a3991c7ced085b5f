package org.tensorflow.lite;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.reflect.Array;
import java.nio.ByteBuffer;
import java.util.Map;

/** LiteRT's class on Android, as far as it is asked; at the end of a pipe is LiteRT's in Python. */
public final class Interpreter {
  private final DataOutputStream to;
  private final DataInputStream from;

  public Interpreter(String python, String script, String model) throws IOException {
    ProcessBuilder builder = new ProcessBuilder(python, script, model);
    Process process = builder.redirectError(ProcessBuilder.Redirect.INHERIT).start();
    to = new DataOutputStream(new BufferedOutputStream(process.getOutputStream()));
    from = new DataInputStream(new BufferedInputStream(process.getInputStream()));
  }

  public void runSignature(
      Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey) {
    try {
      to.writeUTF(signatureKey);
      to.writeInt(inputs.size());
      for (Map.Entry<String, Object> input : inputs.entrySet()) {
        head(input);
        write(input.getValue());
      }
      to.writeInt(outputs.size());
      for (Map.Entry<String, Object> output : outputs.entrySet()) head(output);
      to.flush();
      for (Object output : outputs.values()) read(output);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  /** Name and shape: of a buffer, how many bytes it has. */
  private void head(Map.Entry<String, Object> tensor) throws IOException {
    to.writeUTF(tensor.getKey());
    int axes = 0;
    for (Object o = tensor.getValue(); o.getClass().isArray(); o = Array.get(o, 0)) axes++;
    to.writeInt(axes);
    for (Object o = tensor.getValue(); axes > 0; axes--) {
      to.writeInt(Array.getLength(o));
      o = Array.get(o, 0);
    }
    if (tensor.getValue() instanceof ByteBuffer) {
      to.writeInt(((ByteBuffer) tensor.getValue()).capacity());
    }
  }

  private void write(Object values) throws IOException {
    if (values instanceof ByteBuffer) {
      ByteBuffer buffer = (ByteBuffer) values;
      // Of others LiteRT takes what lies behind the position, which is the end.
      if (!buffer.isDirect()) throw new IllegalArgumentException("The buffer is not direct.");
      for (int at = 0; at < buffer.capacity(); at += 4) to.writeFloat(buffer.getFloat(at));
    } else if (values instanceof float[]) {
      for (float value : (float[]) values) to.writeFloat(value);
    } else {
      for (Object part : (Object[]) values) write(part);
    }
  }

  private void read(Object values) throws IOException {
    if (values instanceof float[]) {
      float[] floats = (float[]) values;
      for (int i = 0; i < floats.length; i++) floats[i] = from.readFloat();
    } else {
      for (Object part : (Object[]) values) read(part);
    }
  }
}
