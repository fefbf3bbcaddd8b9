import { promisify } from "node:util";
import { type Entry, fromBuffer, type ZipFile } from "yauzl";
import { UnreadableDocument } from "../../unreadable.ts";

/** Bytes that a package may unpack to, one of its XML files, and those that are kept; and how many files it may hold. */
const MOST_BYTES = 256 * 1024 * 1024;
const MOST_XML = 64 * 1024 * 1024;
const MOST_KEPT = 128 * 1024 * 1024;
const MOST_ENTRIES = 10_000;

const open = promisify<Buffer, object, ZipFile>(fromBuffer);
const KEPT = /\.(xml|rels|html?|txt|docx)$/i;

/** The files of a package, by their path in lower case, with slashes between and none in front: writers differ in that. */
export type Package = ReadonlyMap<string, Buffer>;
export const inPackage = (path: string): string => path.replaceAll("\\", "/").replace(/^\/+/, "").toLowerCase();

/**
 * Unpacks every entry, so that a bomb is found out by what it is and not by what its directory says. What text can be
 * in is kept.
 *
 * @param what names the kind of file in an error: `DOCX document`
 * @throws UnreadableDocument
 */
export async function openPackage(bytes: Uint8Array, what: string): Promise<Package> {
  const damaged = `the ${what} is damaged and cannot be read`;
  let zip: ZipFile;
  try {
    // Names are read here, since those that some writers give are refused there. Sizes are checked below.
    zip = await open(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), {
      lazyEntries: true,
      decodeStrings: false,
      validateEntrySizes: true,
    });
  } catch (cause) {
    throw new UnreadableDocument(damaged, { cause });
  }
  const kept = new Map<string, Buffer>();
  let unpacked = 0;
  let keptBytes = 0;
  let entries = 0;
  await new Promise<void>((resolve, reject) => {
    const fail = (reason: string, cause?: unknown) => {
      zip.close();
      reject(new UnreadableDocument(reason, { cause }));
    };
    const isBomb = `the ${what} unpacks to more than is accepted; it may be a zip bomb`;
    zip.on("error", (cause) => fail(damaged, cause));
    zip.on("end", resolve);
    zip.on("entry", (entry: Entry) => {
      if (++entries > MOST_ENTRIES) return fail(`the ${what} holds more than ${MOST_ENTRIES} files`);
      if ((entry.generalPurposeBitFlag & 1) !== 0)
        return fail(`the ${what} is encrypted; upload it without its password`);
      const name = inPackage(Buffer.from(entry.fileName as unknown as Uint8Array).toString("utf8"));
      zip.openReadStream(entry, (error, stream) => {
        if (error) return fail(damaged, error);
        const parts: Buffer[] = [];
        const isKept = KEPT.test(name);
        let size = 0;
        stream.on("data", (part: Buffer) => {
          size += part.length;
          unpacked += part.length;
          if (isKept) {
            parts.push(part);
            keptBytes += part.length;
          }
          if (unpacked > MOST_BYTES || (isKept && (size > MOST_XML || keptBytes > MOST_KEPT))) {
            stream.destroy();
            fail(isBomb);
          }
        });
        stream.on("error", (cause) => fail(damaged, cause));
        stream.on("end", () => {
          if (isKept) kept.set(name, Buffer.concat(parts));
          zip.readEntry();
        });
      });
    });
    zip.readEntry();
  });
  return kept;
}
