/** PDF.js, as it is used here. */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { PDFDocumentProxy } from "pdfjs-dist";
import { UnreadableDocument } from "../../unreadable.ts";

export type PdfJs = typeof import("pdfjs-dist");

/** PDF.js in this process, without its worker. */
async function loadPdfJs(): Promise<PdfJs> {
  // @ts-expect-error: it has no types, and none are needed.
  const worker: unknown = await import("pdfjs-dist/legacy/build/pdf.worker.mjs");
  (globalThis as { pdfjsWorker?: unknown }).pdfjsWorker = worker;
  return import("pdfjs-dist/legacy/build/pdf.mjs") as Promise<PdfJs>;
}

/**
 * Works on an open PDF.
 *
 * @param maxImageSize pixels of an image that is unpacked
 * @throws UnreadableDocument
 */
export async function withPdf<T>(
  bytes: Uint8Array,
  { maxImageSize }: { readonly maxImageSize: number },
  work: (pdf: PDFDocumentProxy, pdfjs: PdfJs) => Promise<T>,
): Promise<T> {
  const pdfjs = await loadPdfJs();
  const data = dirname(createRequire(import.meta.url).resolve("pdfjs-dist/package.json"));
  let pdf: PDFDocumentProxy;
  try {
    pdf = await pdfjs.getDocument({
      // PDF.js takes no Buffer, and takes what it is given for its own.
      data: new Uint8Array(bytes),
      isEvalSupported: false,
      useSystemFonts: false,
      stopAtErrors: false,
      cMapUrl: join(data, "cmaps/"),
      cMapPacked: true,
      standardFontDataUrl: join(data, "standard_fonts/"),
      wasmUrl: join(data, "wasm/"),
      iccUrl: join(data, "iccs/"),
      maxImageSize,
      verbosity: pdfjs.VerbosityLevel.ERRORS,
    }).promise;
  } catch (cause) {
    if ((cause as { name?: string }).name === "PasswordException")
      throw new UnreadableDocument("the PDF is encrypted; upload it without its password", { cause });
    throw new UnreadableDocument("the PDF is damaged and cannot be read", { cause });
  }
  try {
    return await work(pdf, pdfjs);
  } finally {
    await pdf.loadingTask.destroy().catch(() => undefined);
  }
}
