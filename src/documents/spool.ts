import { createHash } from "node:crypto";
import { type FileHandle, open, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { v7 as uuid } from "uuid";

/** Bytes of a part in `document_content`. */
export const PART_BYTES = 1024 * 1024;

/** An upload that is on disk, not in memory, and not yet in the database. */
export interface SpooledFile {
  readonly size: number;
  /** SHA-256, hex. */
  readonly hash: string;
  /** Its bytes in parts of {@link PART_BYTES}. */
  parts(): AsyncGenerator<Buffer>;
  /** Gives the disk space back. */
  discard(): Promise<void>;
}

/**
 * Writes a stream to a file that has no name any more: the system frees it with the process,
 * however that ends, so that no tenant's bytes stay behind.
 */
export async function spool(stream: Readable): Promise<SpooledFile> {
  const path = join(tmpdir(), `scopefloor-${uuid()}`);
  const file: FileHandle = await open(path, "wx+", 0o600);
  try {
    await unlink(path);
    const hash = createHash("sha256");
    let size = 0;
    for await (const part of stream) {
      hash.update(part as Buffer);
      for (let written = 0; written < (part as Buffer).length; ) {
        const { bytesWritten } = await file.write(
          part as Buffer,
          written,
          (part as Buffer).length - written,
          size + written,
        );
        written += bytesWritten;
      }
      size += (part as Buffer).length;
    }
    return { size, hash: hash.digest("hex"), parts: () => partsOf(file, size), discard: () => file.close() };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function* partsOf(file: FileHandle, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < size; ) {
    const part = Buffer.alloc(Math.min(PART_BYTES, size - at));
    for (let filled = 0; filled < part.length; ) {
      const { bytesRead } = await file.read(part, filled, part.length - filled, at + filled);
      if (bytesRead === 0) throw new Error("the spooled upload is shorter than it was");
      filled += bytesRead;
    }
    at += part.length;
    yield part;
  }
}
