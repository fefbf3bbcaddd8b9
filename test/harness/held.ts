import { enterScope } from "../../src/db/access/enter.ts";
import type { AccessRequest } from "../../src/db/access/entry.ts";
import type { ScopedTransaction } from "../../src/db/access/scoped.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import type { Client, TestService } from "./service.ts";

/** A transaction of a client's that has done this work and stays open until it is told to end, after some more. */
export async function hold(
  service: TestService,
  client: Client,
  demand: AccessRequest,
  work: (tx: ScopedTransaction) => Promise<unknown>,
) {
  let open: (last: (tx: ScopedTransaction) => Promise<unknown>) => void = () => undefined;
  const opened = new Promise<(tx: ScopedTransaction) => Promise<unknown>>((resolve) => {
    open = resolve;
  });
  const caller = { keyHash: hashSecret(client.key), onBehalfOf: undefined, route: "test", operation: "test" };
  let ended: Promise<unknown> | undefined;
  await new Promise<void>((begun, failed) => {
    ended = enterScope(service.database.app, caller, demand, async (tx) => {
      await work(tx);
      begun();
      return (await opened)(tx);
    });
    ended.catch(failed);
  });
  return async <T>(last: (tx: ScopedTransaction) => Promise<T> = async () => undefined as T) => {
    open(last);
    return (await ended) as T;
  };
}
