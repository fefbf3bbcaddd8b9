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
 * The hash of the secret in an `Authorization` header; undefined where there can be no key in it: what looks
 * like one of ours and has another checksum is noise, and is not looked up. (A first key of the operator's own
 * looks otherwise.)
 */
export function hashFromHeader(header: string | undefined): KeyHash | undefined {
  const secret = /^Bearer ([\x21-\x7e]{32,512})$/i.exec(header ?? "")?.[1];
  if (secret === undefined) return undefined;
  const isOurs = /^sf_(agent|sup|mgmt)_[0-9A-Za-z]{46}$/.test(secret);
  const [body, end] = [secret.slice(0, -CHECKSUM_LENGTH), secret.slice(-CHECKSUM_LENGTH)];
  return isOurs && checksum(body) !== end ? undefined : hashSecret(secret);
}
