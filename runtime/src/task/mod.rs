//! A task is a thread: stack, thread-locals, heap, in slots whose addresses are equal on all nodes.
//!
//! [`spawn`] starts one; [`record`] is what the node knows of it, [`state`] who may touch it;
//! [`local`] and [`mobile`] are its two kinds, [`child`] a closure between them; [`coro`] its registers, [`stack`] its stack,
//! [`header`] the picture of a mobile task's slot, [`tls`] its thread-locals, [`router`] its heap.
//! [`current`] answers "who runs here" and holds the one way to wait.

#[expect(unsafe_code, reason = "walks a list through slots that a task owns")]
pub(crate) mod adopted;
mod again;
#[expect(unsafe_code, reason = "points into the slot that a task owns")]
pub(crate) mod body;
#[expect(unsafe_code, reason = "registers what messages have in the place of an entry")]
pub(crate) mod channel;
#[expect(unsafe_code, reason = "hands memory from task to task")]
pub(crate) mod child;
#[expect(unsafe_code, reason = "reads and writes the floating-point control words")]
pub(crate) mod control;
#[expect(unsafe_code, reason = "places coroutines on stacks that the runtime owns")]
pub(crate) mod coro;
#[expect(unsafe_code, reason = "finds the running task by its thread pointer")]
pub(crate) mod current;
pub(crate) mod handle;
#[expect(unsafe_code, reason = "reaches into the slot that a task owns")]
pub(crate) mod header;
pub(crate) mod here;
#[expect(unsafe_code, reason = "packs counted references into one word")]
pub(crate) mod join;
#[expect(unsafe_code, reason = "stores closures and results without their types")]
pub(crate) mod local;
#[expect(unsafe_code, reason = "builds tasks in slots and switches to them")]
pub(crate) mod mobile;
pub(crate) mod panic_hook;
#[expect(unsafe_code, reason = "keeps values of any type in arenas of their own")]
pub(crate) mod parcel;
pub(crate) mod parent;
pub(crate) mod pin;
pub(crate) mod promise;
#[expect(unsafe_code, reason = "counts references and recycles records")]
pub(crate) mod record;
#[expect(unsafe_code, reason = "empties slots of tasks that have ended")]
pub(crate) mod retire;
#[expect(unsafe_code, reason = "reaches a task's own copy of a thread-local")]
pub(crate) mod safepoint;
#[expect(unsafe_code, reason = "clears dead stack")]
pub(crate) mod scrub;
pub(crate) mod sleep;
#[expect(unsafe_code, reason = "takes results by the type that the handle carries")]
pub(crate) mod spawn;
#[expect(unsafe_code, reason = "installs the guard of a slot it has just taken")]
pub(crate) mod stack;
pub(crate) mod state;
pub(crate) mod time;
mod unusual;
pub(crate) mod warm;
pub(crate) mod wish;

#[expect(unsafe_code, reason = "writes the process-wide canary and pointer guard")]
pub(crate) mod cluster_secret;
#[expect(unsafe_code, reason = "takes the place of libc's registration of destructors")]
pub(crate) mod dtors;
#[expect(unsafe_code, reason = "counts in headers of tasks")]
pub(crate) mod fd_table;
#[expect(unsafe_code, reason = "takes the place of libc functions")]
pub(crate) mod libc_buffers;
#[expect(unsafe_code, reason = "takes the place of libc functions")]
mod libc_clock;
#[expect(unsafe_code, reason = "takes the place of libc functions")]
mod libc_pins;
#[expect(unsafe_code, reason = "takes the place of libc functions")]
mod libc_process;
#[cfg(target_feature = "crt-static")]
#[expect(unsafe_code, reason = "takes the place of a libc function")]
mod libc_threads;
#[expect(unsafe_code, reason = "takes the place of libc's allocator")]
mod malloc_names;
#[expect(unsafe_code, reason = "reaches headers through raw thread pointers")]
pub(crate) mod prefix;
#[expect(unsafe_code, reason = "is malloc")]
pub(crate) mod router;
#[expect(unsafe_code, reason = "makes a task's block and heap for a moment")]
pub(crate) mod router_probe;
#[expect(unsafe_code, reason = "takes the place of a libc function")]
mod stack_bounds;
#[expect(unsafe_code, reason = "moves the counters that number threads")]
pub(crate) mod thread_ids;
#[expect(unsafe_code, reason = "builds struct pthread by hand and switches the FS base")]
pub(crate) mod tls;
