import { HeadnodeError } from "../../errors.ts";

/** A network that a headnode's interface joins. */
export interface HeadnodeInterface {
  readonly label: string;
  /** Null under the null allocator: there is no VLAN to join. */
  readonly vlan: number | null;
}

/** A headnode as its hypervisor sees it. `uuid` never changes, so it names the virtual machine. */
export interface HeadnodeTarget {
  readonly label: string;
  readonly uuid: string;
  readonly baseImage: string;
  readonly interfaces: readonly HeadnodeInterface[];
  /** At most 8 characters: VNC takes no more. */
  readonly vncPassword: string;
  /** Awaited before each command that changes or destroys something: rejects when the caller lost the right to it, or as `confirmHeld`. */
  confirm(): Promise<void>;
  /** Rejects when this call has the headnode no more: its process was stopped, and another call took it over. */
  confirmHeld(): Promise<void>;
}

/** Undoing what failed is haas's own act, and asks for nobody's right. */
export const unasked = (headnode: HeadnodeTarget): HeadnodeTarget => ({ ...headnode, confirm: () => headnode.confirmHeld() });

/** What the hypervisor says of a virtual machine. */
export type MachineState =
  | { readonly kind: "absent" }
  /** `words`: why it is off, as the hypervisor puts it: `shut off (crashed)`. */
  | { readonly kind: "off"; readonly words: string }
  /** `vncPort`: the TCP port of its display, on the hypervisor's loopback. */
  | { readonly kind: "on"; readonly vncPort: number | null };

/** The machine could not be made, and what there is of it could not be removed either: that is left to the next call. */
export class HalfMadeError extends HeadnodeError {}

/**
 * A hypervisor. Every call is bounded in time; a failure is a `HeadnodeError` that says what failed. Two calls about
 * one headnode never run at the same time (see inventory/headnodes.ts).
 */
export interface HeadnodeDriver {
  readonly name: string;
  /** Why its displays can't be reached from here; null when they can, on loopback. */
  readonly displaysElsewhere: string | null;
  /**
   * Clone the base image's machine and storage. Called when there is no machine yet, after `remove` if an earlier
   * `create` was cut off. A failure leaves nothing behind; where that fails as well, it is a `HalfMadeError`.
   * Refuses to touch a machine or storage of that name which is there already.
   */
  create(headnode: HeadnodeTarget): Promise<void>;
  /**
   * Bring the machine's interfaces and display to what the target says, and start it; where that fails, it is off. One that
   * runs stays as it is, and it is an error when it is on other networks.
   */
  start(headnode: HeadnodeTarget): Promise<void>;
  /** Power off hard, and take the machine off all networks until its next start; no effect when it is absent. */
  stop(headnode: HeadnodeTarget): Promise<void>;
  /** Destroy the machine and its storage; no effect when there is none. */
  remove(headnode: HeadnodeTarget): Promise<void>;
  state(headnode: HeadnodeTarget): Promise<MachineState>;
}
