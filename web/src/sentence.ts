/** An error that visitors read: one sentence, which says what to do if anything can be done. */
export class Sentence extends Error {}

/** The sentence of any error; an unforeseen one at least says what it was. */
export function sentenceOf(error: unknown): string {
  if (error instanceof Sentence) return error.message;
  const text = error instanceof Error ? error.message : String(error);
  return `Something went wrong: ${text.split('\n')[0] || 'nobody knows what'}.`;
}
