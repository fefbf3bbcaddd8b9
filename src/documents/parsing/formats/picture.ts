/** Pictures as models take them: of a size that each can see all of, in one of two formats. */
import { type Canvas, createCanvas, loadImage } from "@napi-rs/canvas";
import { UnreadableDocument } from "../unreadable.ts";

/** A picture of a whole file, or of one page of it. */
export interface Picture {
  readonly type: "image/png" | "image/jpeg";
  readonly bytes: Uint8Array;
  /** Width times height. */
  readonly pixels: number;
}

/** Pixels of the longer side: a page of A4 at 200 dots per inch has 2,339, and most models see no more than 2,048. */
export const LONGEST_SIDE = 2_000;
/** Of what is unpacked: 64 million pixels are 256 MB. */
const MOST_PIXELS = 64_000_000;

/** @throws UnreadableDocument */
export async function readPicture(bytes: Uint8Array): Promise<Picture> {
  const { width, height, draw } = await open(bytes);
  if (width * height === 0 || width * height > MOST_PIXELS)
    throw new UnreadableDocument(`the picture has ${width} × ${height} pixels; at most ${MOST_PIXELS} are read`);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const canvas = createCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  draw(canvas);
  return pictureOf(canvas);
}

/** Of the formats that are read; the library knows others, which refer to more than the file. */
const isPicture = (bytes: Uint8Array) =>
  /^(\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP)/s.test(Buffer.from(bytes.subarray(0, 12)).toString("latin1"));

async function open(bytes: Uint8Array) {
  if (!isPicture(bytes)) throw new UnreadableDocument("the file is no PNG, JPEG, GIF or WebP");
  try {
    const image = await loadImage(Buffer.from(bytes));
    const draw = (canvas: Canvas) => {
      const context = canvas.getContext("2d");
      // What lets the paper shine through is seen on white.
      context.fillStyle = "white";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
    };
    return { width: image.width, height: image.height, draw };
  } catch (cause) {
    throw new UnreadableDocument("the picture is damaged and cannot be read", { cause });
  }
}

const JPEG_QUALITY = 88;

/** Drawings and screens are small and exact as PNG; photographs are not small, and go as JPEG. */
export async function pictureOf(canvas: Canvas): Promise<Picture> {
  const pixels = canvas.width * canvas.height;
  const png = await canvas.encode("png");
  if (png.length < MOST_PNG_BYTES) return { type: "image/png", bytes: png, pixels };
  return { type: "image/jpeg", bytes: await canvas.encode("jpeg", JPEG_QUALITY), pixels };
}

const MOST_PNG_BYTES = 1_000_000;
