import { promisify } from "node:util";
import { type Entry, fromBuffer, type ZipFile } from "yauzl";
import { UnreadableDocument } from "../unreadable.ts";

/** Bytes that a DOCX may unpack to, and how many files it may hold. */
const MOST_BYTES = 256 * 1024 * 1024;
const MOST_XML = 64 * 1024 * 1024;
const MOST_ENTRIES = 10_000;

const open = promisify<Buffer, object, ZipFile>(fromBuffer);

/**
 * Unpacks every entry without keeping it, so that a bomb is found out by what it is and not by what
 * its directory says, before a library unpacks it into memory.
 *
 * @throws UnreadableDocument
 */
export async function refuseBombs(bytes: Uint8Array): Promise<void> {
  let zip: ZipFile;
  try {
    // Sizes are checked here: an entry that says less than it holds is an error of yauzl's.
    zip = await open(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), {
      lazyEntries: true,
      validateEntrySizes: true,
    });
  } catch (cause) {
    throw new UnreadableDocument("the DOCX document is damaged and cannot be read", { cause });
  }
  let unpacked = 0;
  let entries = 0;
  await new Promise<void>((resolve, reject) => {
    const fail = (reason: string, cause?: unknown) => reject(new UnreadableDocument(reason, { cause }));
    zip.on("error", (cause) => fail("the DOCX document is damaged and cannot be read", cause));
    zip.on("end", resolve);
    zip.on("entry", (entry: Entry) => {
      if (++entries > MOST_ENTRIES) return fail(`the DOCX document holds more than ${MOST_ENTRIES} files`);
      if ((entry.generalPurposeBitFlag & 1) !== 0)
        return fail("the DOCX document is encrypted; upload it without its password");
      zip.openReadStream(entry, (error, stream) => {
        if (error) return fail("the DOCX document is damaged and cannot be read", error);
        let size = 0;
        stream.on("data", (part: Buffer) => {
          size += part.length;
          unpacked += part.length;
          if (unpacked > MOST_BYTES || (/\.(xml|rels)$/i.test(entry.fileName) && size > MOST_XML)) {
            stream.destroy();
            fail("the DOCX document unpacks to more than is accepted; it may be a zip bomb");
          }
        });
        stream.on("error", (cause) => fail("the DOCX document is damaged and cannot be read", cause));
        stream.on("end", () => zip.readEntry());
      });
    });
    zip.readEntry();
  });
}
