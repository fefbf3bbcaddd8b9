/** Pages of a PDF as pictures. */
import { createCanvas } from "@napi-rs/canvas";
import { LONGEST_SIDE, type Picture, pictureOf } from "../picture.ts";
import { withPdf } from "./open.ts";

/** @throws UnreadableDocument */
export const drawPage = (bytes: Uint8Array, number: number): Promise<Picture> =>
  withPdf(bytes, { maxImageSize: MOST_IMAGE_PIXELS }, async (pdf) => {
    const page = await pdf.getPage(number);
    const { width, height } = page.getViewport({ scale: 1 });
    const viewport = page.getViewport({ scale: Math.min(LONGEST_SIDE / Math.max(width, height), MOST_SCALE) });
    const canvas = createCanvas(Math.ceil(viewport.width), Math.ceil(viewport.height));
    await page.render({ canvas: canvas as never, viewport }).promise;
    return pictureOf(canvas);
  });

/** Of one image in a page: A3 at 600 dots per inch has 70 million. */
const MOST_IMAGE_PIXELS = 80_000_000;
/** A page of a few millimetres is not blown up to a poster. */
const MOST_SCALE = 4;
