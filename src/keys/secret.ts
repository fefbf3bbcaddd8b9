import { createHash, randomInt } from "node:crypto";
import { crc32 } from "node:zlib";
import type { KeyHash, Principal } from "../db/access/entry.ts";

const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX: Record<Principal, string> = { agent: "sf_agent_", supervisor: "sf_sup_", management: "sf_mgmt_" };
/** 40 characters of base62 are 238 bits. */
const RANDOM_LENGTH = 40;
const CHECKSUM_LENGTH = 6;

/** CRC-32 in base62, so that scanners and clients can tell a key from noise. It protects nothing. */
function checksum(text: string): string {
  let rest = crc32(text);
  let digits = "";
  for (let i = 0; i < CHECKSUM_LENGTH; i++) {
    digits = ALPHABET[rest % 62] + digits;
    rest = Math.floor(rest / 62);
  }
  return digits;
}

/** A new secret: prefix, 40 random base62 characters, checksum. Shown once, never stored. */
export function newSecret(principal: Principal): string {
  let secret = PREFIX[principal];
  for (let i = 0; i < RANDOM_LENGTH; i++) secret += ALPHABET[randomInt(62)];
  return secret + checksum(secret);
}

/** What the service presents to the database, which stores only the hash of it. */
export function hashSecret(secret: string): KeyHash {
  return createHash("sha256").update(secret).digest() as Uint8Array as KeyHash;
}

/** The secret in an `Authorization` header, or what stands in its place there. */
export const bearerOf = (header: string): string => header.replace(/^Bearer /i, "");

/**
 * The hash of the secret in an `Authorization` header; undefined where there can be no key in it.
 * The checksum is for secret scanners and clients: here every key takes the same path, the look-up.
 */
export function hashFromHeader(header: string | undefined): KeyHash | undefined {
  const secret = /^Bearer ([\x21-\x7e]{32,512})$/i.exec(header ?? "")?.[1];
  return secret === undefined ? undefined : hashSecret(secret);
}
