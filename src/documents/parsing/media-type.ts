import { AppError } from "../../errors.ts";

/** What the service extracts text from. */
export const MEDIA_TYPES = {
  text: "text/plain",
  markdown: "text/markdown",
  html: "text/html",
  csv: "text/csv",
  json: "application/json",
  pdf: "application/pdf",
  docx: "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
} as const;

export type MediaType = (typeof MEDIA_TYPES)[keyof typeof MEDIA_TYPES];

const OTHER_NAMES: Record<string, MediaType> = {
  "text/x-markdown": MEDIA_TYPES.markdown,
  "application/xhtml+xml": MEDIA_TYPES.html,
  "application/csv": MEDIA_TYPES.csv,
  "text/tab-separated-values": MEDIA_TYPES.csv,
  "text/json": MEDIA_TYPES.json,
  "application/x-pdf": MEDIA_TYPES.pdf,
};

const EXTENSIONS: Record<string, MediaType> = {
  txt: MEDIA_TYPES.text,
  text: MEDIA_TYPES.text,
  log: MEDIA_TYPES.text,
  md: MEDIA_TYPES.markdown,
  markdown: MEDIA_TYPES.markdown,
  html: MEDIA_TYPES.html,
  htm: MEDIA_TYPES.html,
  xhtml: MEDIA_TYPES.html,
  csv: MEDIA_TYPES.csv,
  tsv: MEDIA_TYPES.csv,
  json: MEDIA_TYPES.json,
  pdf: MEDIA_TYPES.pdf,
  docx: MEDIA_TYPES.docx,
};

const isKnown = (type: string): type is MediaType => (Object.values(MEDIA_TYPES) as string[]).includes(type);
const GENERIC_TYPES = new Set(["", "application/octet-stream", "binary/octet-stream"]);

/**
 * The type of an upload: as its metadata says, or its part's header, or its name. What the bytes are
 * is looked at when they are parsed: a file that is something else than it says fails there.
 *
 * @throws AppError 415 for a type that is not supported
 */
export function mediaTypeOf(said: { mimeType: string | undefined; partType: string; filename: string }): MediaType {
  for (const given of [said.mimeType ?? "", said.partType]) {
    const type = (given.split(";")[0] ?? "").trim().toLowerCase();
    if (GENERIC_TYPES.has(type)) continue;
    const known = isKnown(type) ? type : OTHER_NAMES[type];
    if (known !== undefined) {
      // Clients send every unknown extension as plain text: the name says more.
      const named = byExtension(said.filename);
      return known === MEDIA_TYPES.text && given === said.partType && named !== undefined ? named : known;
    }
    throw new AppError(
      "unsupported-media-type",
      `${JSON.stringify(type.slice(0, 80))} is not supported; supported are ${Object.values(MEDIA_TYPES).join(", ")}`,
    );
  }
  return byExtension(said.filename) ?? MEDIA_TYPES.text;
}

const byExtension = (filename: string): MediaType | undefined =>
  EXTENSIONS[/\.([A-Za-z0-9]{1,10})$/.exec(filename)?.[1]?.toLowerCase() ?? ""];
