/** The tools that agents have: each is a route of the HTTP API under the name that agents know it by. */
import type { Tool } from "../tool.ts";
import { forget } from "./forgetting.ts";
import { context, inspect, recall } from "./reading.ts";
import { remember, upload } from "./writing.ts";

/** In the order in which they are listed. What nothing serves is not among them: reflect needs a chat model. */
export const TOOLS: readonly Tool[] = [remember, recall, context, forget, upload, inspect];
