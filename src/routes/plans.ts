import { t } from "elysia";
import { object } from "./controller.ts";

// Shapes that the calls about real ports share.

const vlans = t.Unsafe<readonly number[]>(t.Array(t.Integer()));

/** What a port carries. */
export const portState = object(
  { native: t.Nullable(t.Integer({ description: "The untagged VLAN" })), tagged: vlans },
  { native: 100, tagged: [200] },
);

export const lines = t.Unsafe<readonly string[]>(
  t.Array(t.String(), { description: "What would be sent to the switch", examples: [["interface gi1/0/1"]] }),
);

/** `?dry_run=true`: tell what would be done, and do nothing. */
export const dryRunQuery = object({
  dry_run: t.Optional(
    t.Union([t.Literal("true"), t.Literal("false")], {
      description: "`true`, for administrators: only tell what would be sent to the switch",
    }),
  ),
});

/** The answer to a dry run of a change of one port. */
export const planned = {
  200: object({ switch: t.String(), port: t.String(), actual: portState, desired: portState, lines }),
};
