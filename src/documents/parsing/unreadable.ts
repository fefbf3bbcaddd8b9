/** A file that text cannot be had from. The message is for its uploader: it says why, and holds none of the text. */
export class UnreadableDocument extends Error {
  constructor(reason: string, options?: { cause?: unknown }) {
    super(reason, options);
    this.name = "UnreadableDocument";
  }
}
