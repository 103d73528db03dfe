/** A network that a headnode's interface joins. `vlan` is null under the null allocator. */
export interface HeadnodeInterface {
  readonly label: string;
  readonly vlan: number | null;
}

/** A headnode as its hypervisor sees it. `uuid` never changes, so it names the virtual machine. */
export interface HeadnodeTarget {
  readonly label: string;
  readonly uuid: string;
  readonly baseImage: string;
  readonly interfaces: readonly HeadnodeInterface[];
}

/** A hypervisor. Every call is bounded in time; a failure is a `ServerError` that says what failed. */
export interface HeadnodeDriver {
  readonly name: string;
  /** Clone the base image and add the interfaces. Called once, before the first start; undone when it fails. */
  create(headnode: HeadnodeTarget): Promise<void>;
  /** Start the virtual machine; no effect when it runs. */
  start(headnode: HeadnodeTarget): Promise<void>;
  /** Power off hard; no effect when it is off. */
  stop(headnode: HeadnodeTarget): Promise<void>;
  /** Destroy the virtual machine and its storage; no effect when there is none. */
  remove(headnode: HeadnodeTarget): Promise<void>;
  /** The TCP port of its display, or null when it is off. */
  vncPort(headnode: HeadnodeTarget): Promise<number | null>;
}
