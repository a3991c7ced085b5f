/** Whether an image file is complete: some browsers silently make an image of a part. */

/** Checks PNG, JPEG, GIF and WebP; other kinds are left to the browser. */
export function isWhole(bytes: Uint8Array): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kind = KINDS.find(({ begins }) => bytes.length >= 14
    && begins.every((byte, i) => byte < 0 || byte === bytes[i]));
  try {
    return kind === undefined || kind.whole(bytes, view);
  } catch (error) {
    if (error instanceof RangeError) return false;  // It ends within a number.
    throw error;
  }
}

interface Kind {
  /** The first bytes; a negative one matches any. */
  begins: number[];
  whole(bytes: Uint8Array, view: DataView): boolean;
}

const KINDS: Kind[] = [
  { begins: [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a], whole: isWholePng },
  { begins: [0xff, 0xd8, 0xff], whole: isWholeJpeg },
  { begins: [0x47, 0x49, 0x46, 0x38], whole: isWholeGif },
  {
    begins: [0x52, 0x49, 0x46, 0x46, -1, -1, -1, -1, 0x57, 0x45, 0x42, 0x50],  // WebP.
    whole: (bytes, view) => view.getUint32(4, true) + 8 <= bytes.length,
  },
];

/** Its chunks go on to IEND, and the critical ones match their checksums. */
function isWholePng(bytes: Uint8Array, view: DataView): boolean {
  for (let at = 8, end; at < bytes.length; at = end + 4) {
    if (view.getUint32(at + 4) === 0x49454e44) return true;
    end = at + 8 + view.getUint32(at);
    const sum = view.getUint32(end);
    const optional = bytes[at + 4] & 0x20;
    if (!optional && sum !== checksum(bytes.subarray(at + 4, end))) return false;
  }
  return false;
}

/** Its segments and what is between them go on to the end marker. */
function isWholeJpeg(bytes: Uint8Array, view: DataView): boolean {
  for (let at = 2; at + 1 < bytes.length;) {
    const marker = bytes[at + 1];
    if (bytes[at] !== 0xff || marker === 0xff) at++;  // Pixels, or padding.
    else if (marker === 0xd9) return true;
    else if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd7)) at += 2;  // Within pixels.
    else at += 2 + view.getUint16(at + 2);
  }
  return false;
}

/** The blocks of its first image, the one that is shown, go on to an empty one. */
function isWholeGif(bytes: Uint8Array, view: DataView): boolean {
  const colours = (flags: number) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  for (let at = 13 + colours(bytes[10]); at < bytes.length;) {
    const image = bytes[at] === 0x2c;
    at += image ? 11 + colours(bytes[at + 9]) : 2;
    let length = view.getUint8(at);
    for (; length > 0; length = view.getUint8(at)) at += 1 + length;
    if (image) return true;
    at++;
  }
  return false;
}

/** CRC-32. */
function checksum(bytes: Uint8Array): number {
  let sum = -1;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return ~sum >>> 0;
}

const TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let i = 0; i < 8; i++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});
