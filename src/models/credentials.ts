import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import { ModelUnavailable } from "./unavailable.ts";

/** A scope's own key for a provider, as the database has it. */
export interface SealedCredential {
  /** The path of the scope whose it is. */
  readonly scope: string;
  readonly provider: string;
  /** Where the provider is, as the operator offers it; null: where the service's own calls go. */
  readonly baseUrl: string | null;
  readonly sealed: string;
}

/** By provider. */
export type Credentials = Readonly<Record<string, SealedCredential>>;

/** What a client takes in place of the service's own. */
export interface OwnKey {
  readonly apiKey: string;
  readonly baseUrl: string | undefined;
}

const CIPHER = "aes-256-gcm";
const IV_BYTES = 12;
const TAG_BYTES = 16;

/**
 * Seals credentials with AES-256-GCM, each for its scope, provider and address: moved to another it does not open.
 * The first key seals, and each of them opens.
 */
export class CredentialSeal {
  readonly #keys: readonly { readonly id: string; readonly key: Buffer }[];

  /** @param keys 32 bytes each, the newest first; none: nothing is sealed, and nothing opens */
  constructor(keys: readonly Buffer[]) {
    this.#keys = keys.map((key) => ({ id: createHash("sha256").update(key).digest("hex").slice(0, 16), key }));
  }

  /** Names the key that seals; undefined: there is none. */
  get current(): string | undefined {
    return this.#keys[0]?.id;
  }

  /** `<id of the key>.<base64url>`. */
  seal(secret: string, place: Omit<SealedCredential, "sealed">): string {
    const [first] = this.#keys;
    if (first === undefined) throw new Error("there is no key to seal credentials with");
    const iv = randomBytes(IV_BYTES);
    const cipher = createCipheriv(CIPHER, first.key, iv).setAAD(boundTo(place));
    const text = Buffer.concat([cipher.update(secret, "utf8"), cipher.final()]);
    return `${first.id}.${Buffer.concat([iv, cipher.getAuthTag(), text]).toString("base64url")}`;
  }

  /** Undefined: it was sealed with a key that is not here, or for another place. */
  open(credential: SealedCredential): string | undefined {
    const [id, body] = credential.sealed.split(".");
    const key = this.#keys.find((one) => one.id === id)?.key;
    if (key === undefined || body === undefined) return undefined;
    const bytes = Buffer.from(body, "base64url");
    try {
      const decipher = createDecipheriv(CIPHER, key, bytes.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES })
        .setAAD(boundTo(credential))
        .setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES));
      return decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES), undefined, "utf8") + decipher.final("utf8");
    } catch {
      return undefined;
    }
  }

  /** The same credential under the first key; undefined: it does not open. */
  reseal(credential: SealedCredential): string | undefined {
    const secret = this.open(credential);
    return secret === undefined ? undefined : this.seal(secret, credential);
  }
}

const boundTo = ({ scope, provider, baseUrl }: Omit<SealedCredential, "sealed">) =>
  Buffer.from(JSON.stringify([scope, provider, baseUrl]));

/** Clients that are kept at a time. */
const MOST_CLIENTS = 1_000;

/** The clients of one provider that go by scopes' own keys: one for each key, so that what fails with one key is no other's failure. */
export class OwnClients<T> {
  readonly #open: (credential: SealedCredential) => OwnKey;
  readonly #make: (key: OwnKey | ModelUnavailable) => T;
  readonly #made = new Map<string, T>();

  /** @param make told why, where the credential cannot be used: such a client fails, and goes by no other key */
  constructor(open: (credential: SealedCredential) => OwnKey, make: (key: OwnKey | ModelUnavailable) => T) {
    this.#open = open;
    this.#make = make;
  }

  of(credential: SealedCredential): T {
    // Also its place: what is sealed for one does not serve another.
    const id = JSON.stringify(credential);
    const known = this.#made.get(id);
    const client = known ?? this.#make(this.#keyOf(credential));
    // At the end of the line: those that nobody has asked for leave first.
    this.#made.delete(id);
    this.#made.set(id, client);
    if (this.#made.size > MOST_CLIENTS) this.#made.delete(this.#made.keys().next().value as string);
    return client;
  }

  #keyOf(credential: SealedCredential): OwnKey | ModelUnavailable {
    try {
      return this.#open(credential);
    } catch (error) {
      if (error instanceof ModelUnavailable) return error;
      throw error;
    }
  }
}

/**
 * Opens credentials for their clients.
 *
 * @param baseUrls where the operator lets calls go
 */
export const opener =
  (seal: CredentialSeal, baseUrls: readonly string[]) =>
  (credential: SealedCredential): OwnKey => {
    const { baseUrl } = credential;
    if (baseUrl !== null && !baseUrls.includes(baseUrl))
      throw new ModelUnavailable("the address of this scope's credential is not offered any more", { isRefusal: true });
    const apiKey = seal.open(credential);
    if (apiKey === undefined)
      throw new ModelUnavailable("this scope's credential does not open with the keys of this service", {
        isRefusal: true,
      });
    return { apiKey, baseUrl: baseUrl ?? undefined };
  };
