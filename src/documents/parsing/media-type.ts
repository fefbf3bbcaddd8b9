import { AppError } from "../../errors.ts";
import type { MediaKind } from "../../models/media.ts";

/** What the service extracts text from. */
export const MEDIA_TYPES = {
  text: "text/plain",
  markdown: "text/markdown",
  html: "text/html",
  csv: "text/csv",
  json: "application/json",
  jsonLines: "application/x-ndjson",
  pdf: "application/pdf",
  docx: "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
  xlsx: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
  pptx: "application/vnd.openxmlformats-officedocument.presentationml.presentation",
  odt: "application/vnd.oasis.opendocument.text",
  eml: "message/rfc822",
  png: "image/png",
  jpeg: "image/jpeg",
  webp: "image/webp",
  gif: "image/gif",
  mp3: "audio/mpeg",
  m4a: "audio/mp4",
  wav: "audio/wav",
  ogg: "audio/ogg",
  webm: "audio/webm",
  flac: "audio/flac",
} as const;

export type MediaType = (typeof MEDIA_TYPES)[keyof typeof MEDIA_TYPES];

const TEXT: ReadonlySet<MediaType> = new Set(
  ["text", "markdown", "html", "csv", "json", "jsonLines"].map((kind) => MEDIA_TYPES[kind as keyof typeof MEDIA_TYPES]),
);
/** Whether a type is of text, which takes no library that unpacks. */
export const isText = (type: MediaType): boolean => TEXT.has(type);

/** What a model has to make text of; undefined: it is read here. */
export const mediaKindOf = (type: MediaType): MediaKind | undefined =>
  type.startsWith("image/") ? "picture" : type.startsWith("audio/") ? "sound" : undefined;

const OTHER_NAMES: ReadonlyMap<string, MediaType> = new Map(
  Object.entries({
    "text/x-markdown": MEDIA_TYPES.markdown,
    "application/xhtml+xml": MEDIA_TYPES.html,
    "application/csv": MEDIA_TYPES.csv,
    "application/x-csv": MEDIA_TYPES.csv,
    "text/x-csv": MEDIA_TYPES.csv,
    "text/comma-separated-values": MEDIA_TYPES.csv,
    "text/x-comma-separated-values": MEDIA_TYPES.csv,
    "text/tab-separated-values": MEDIA_TYPES.csv,
    "text/json": MEDIA_TYPES.json,
    "text/x-json": MEDIA_TYPES.json,
    "application/x-json": MEDIA_TYPES.json,
    "application/jsonl": MEDIA_TYPES.jsonLines,
    "application/x-jsonlines": MEDIA_TYPES.jsonLines,
    "application/jsonlines": MEDIA_TYPES.jsonLines,
    "application/ndjson": MEDIA_TYPES.jsonLines,
    "application/x-pdf": MEDIA_TYPES.pdf,
    "application/eml": MEDIA_TYPES.eml,
    "image/jpg": MEDIA_TYPES.jpeg,
    "image/pjpeg": MEDIA_TYPES.jpeg,
    "image/x-png": MEDIA_TYPES.png,
    "audio/mp3": MEDIA_TYPES.mp3,
    "audio/mpeg3": MEDIA_TYPES.mp3,
    "audio/x-mpeg": MEDIA_TYPES.mp3,
    "audio/m4a": MEDIA_TYPES.m4a,
    "audio/x-m4a": MEDIA_TYPES.m4a,
    "audio/wave": MEDIA_TYPES.wav,
    "audio/x-wav": MEDIA_TYPES.wav,
    "audio/vnd.wave": MEDIA_TYPES.wav,
    "audio/opus": MEDIA_TYPES.ogg,
    "application/ogg": MEDIA_TYPES.ogg,
    "audio/x-flac": MEDIA_TYPES.flac,
  }),
);

const EXTENSIONS: ReadonlyMap<string, MediaType> = new Map(
  Object.entries({
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
    tab: MEDIA_TYPES.csv,
    json: MEDIA_TYPES.json,
    jsonl: MEDIA_TYPES.jsonLines,
    ndjson: MEDIA_TYPES.jsonLines,
    pdf: MEDIA_TYPES.pdf,
    docx: MEDIA_TYPES.docx,
    docm: MEDIA_TYPES.docx,
    xlsx: MEDIA_TYPES.xlsx,
    xlsm: MEDIA_TYPES.xlsx,
    pptx: MEDIA_TYPES.pptx,
    pptm: MEDIA_TYPES.pptx,
    odt: MEDIA_TYPES.odt,
    eml: MEDIA_TYPES.eml,
    png: MEDIA_TYPES.png,
    jpg: MEDIA_TYPES.jpeg,
    jpeg: MEDIA_TYPES.jpeg,
    webp: MEDIA_TYPES.webp,
    gif: MEDIA_TYPES.gif,
    mp3: MEDIA_TYPES.mp3,
    m4a: MEDIA_TYPES.m4a,
    wav: MEDIA_TYPES.wav,
    ogg: MEDIA_TYPES.ogg,
    oga: MEDIA_TYPES.ogg,
    opus: MEDIA_TYPES.ogg,
    flac: MEDIA_TYPES.flac,
  }),
);

const isKnown = (type: string): type is MediaType => (Object.values(MEDIA_TYPES) as string[]).includes(type);
/** What says nothing of the file: clients send these for what they do not know, and Windows names each table Excel's. */
const GENERIC_TYPES = new Set([
  "",
  "application/octet-stream",
  "binary/octet-stream",
  "application/zip",
  "application/x-zip-compressed",
  "application/vnd.ms-excel",
  "application/msword",
  "application/x-unknown",
  "application/unknown",
]);

/** The charset that a content type names. */
export const charsetIn = (type: string): string | undefined =>
  /;\s*charset\s*=\s*"?([A-Za-z0-9_:.+-]{1,40})"?/i.exec(type)?.[1]?.toLowerCase();

/**
 * The type of an upload: as its metadata says, or its part's header, or its name. What the bytes are
 * is looked at when they are parsed: a file that is something else than it says fails there.
 *
 * @param readers whether there is a model for pictures, and one for sound
 * @throws AppError 415 for a type that is not supported
 */
export function mediaTypeOf(
  said: { mimeType: string | undefined; partType: string; filename: string },
  readers: { has(kind: MediaKind): boolean } = { has: () => false },
): MediaType {
  const [, old = ""] = /\.(doc|dot|xls|xlt|ppt|pps)$/i.exec(said.filename) ?? [];
  if (old !== "") throw unsupported(`.${old}`, `; it is of an old Word, Excel or PowerPoint: ${SAVE_ANEW}`);
  const type = typeSaid(said);
  const kind = mediaKindOf(type);
  if (kind !== undefined && !readers.has(kind))
    throw unsupported(type, `; a model reads such files, and this service has none (${MODEL_VARIABLE[kind]})`);
  return type;
}

/** What to do with a file of Office 2003 and before. */
export const SAVE_ANEW = "save it as .docx, .xlsx, .pptx or PDF";

const MODEL_VARIABLE = { picture: "SCOPEFLOOR_VISION_MODEL", sound: "SCOPEFLOOR_SPEECH_MODEL" } as const;

function typeSaid(said: { mimeType: string | undefined; partType: string; filename: string }): MediaType {
  for (const given of [said.mimeType ?? "", said.partType]) {
    const type = (given.split(";")[0] ?? "").trim().toLowerCase();
    const named = byExtension(said.filename);
    if (GENERIC_TYPES.has(type)) {
      if (named === undefined && /ms-excel|msword|zip/.test(type)) throw unsupported(type);
      continue;
    }
    const known = isKnown(type) ? type : OTHER_NAMES.get(type);
    // Clients send every unknown extension as plain text: the name says more.
    if (known !== undefined)
      return known === MEDIA_TYPES.text && given === said.partType && named !== undefined ? named : known;
    throw unsupported(type);
  }
  return byExtension(said.filename) ?? MEDIA_TYPES.text;
}

const unsupported = (type: string, why?: string) =>
  new AppError(
    "unsupported-media-type",
    `${JSON.stringify(type.slice(0, 80))} is not supported${why ?? `; supported are ${Object.values(MEDIA_TYPES).join(", ")}`}`,
  );

const byExtension = (filename: string): MediaType | undefined =>
  EXTENSIONS.get(/\.([A-Za-z0-9]{1,10})$/.exec(filename)?.[1]?.toLowerCase() ?? "");
