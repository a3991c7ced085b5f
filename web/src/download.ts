import { Sentence } from './sentence';

/**
 * Downloads a file beside this page.
 *
 * @param progress is called with the share that has arrived, in [0, 1], if the server tells the
 *   size.
 * @throws Sentence: it is not there, or did not arrive.
 */
export async function download(
  file: string, progress: (share: number) => void = () => {},
): Promise<Uint8Array<ArrayBuffer>> {
  const name = decodeURIComponent(file);
  let response;
  try {
    // A page rebuilt from another export must show that one.
    response = await fetch(file, { cache: 'no-cache' });
  } catch {
    throw new Sentence(`${name} did not arrive: is the server still there?`);
  }
  if (!response.ok) {
    throw new Sentence(`${name} is missing beside this page: build it again by make web.`);
  }
  // The length of a compressed answer is not that of its content.
  const whole = response.headers.get('content-encoding')
    ? 0 : Number(response.headers.get('content-length'));
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let arrived = 0;
  try {
    const reader = response.body!.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      chunks.push(part.value);
      arrived += part.value.length;
      if (whole) progress(Math.min(arrived / whole, 1));
    }
  } catch {
    throw new Sentence(`${name} did not arrive in full: load this page again.`);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
