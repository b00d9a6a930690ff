//! A task that runs out of stack hits the guard below it; this says so and ends the program.
//!
//! The handler runs on the worker's alternate stack but on the *task's* thread-locals, and the
//! fault may have come from anywhere, so it formats by hand, writes, and exits. Faults elsewhere go
//! to the handler that was there before (std's, for the stacks of OS threads).

use std::sync::OnceLock;

use migrt_iso::{SlotId, in_region};

use crate::task::header::{FIRST_EXTENT_LEN, HEADER_SPACE, Layout};
use crate::task::stack::GUARD_LEN;
use crate::task::tls;

/// Exit code of a program whose task ran out of stack: that of an abort.
const EXIT_CODE: i32 = 134;

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler.
pub(crate) fn install() {
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
    // SAFETY: a zeroed sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: as above.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both point to live memory; the handler obeys what the module says.
    if unsafe { libc::sigaction(libc::SIGSEGV, &action, &mut previous) } == 0 {
        let _ = PREVIOUS.set(previous);
    }
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo for SIGSEGV.
    let addr = unsafe { (*info).si_addr() } as usize;
    if crate::migrate::fault::brings_stack(context) {
        return;
    }
    if in_region(addr) && report(addr) {
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(EXIT_CODE) };
    }
    describe(addr, context);
    pass_on(signal, info, context);
}

/// Says where a fault happened that is no overflow: a bug of the program, or of this runtime.
fn describe(addr: usize, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let register = |index: i32| context.uc_mcontext.gregs[index as usize] as u64;
    let mut text = Text::new();
    text.add("\nmigrt: invalid access to ");
    text.hex(addr as u64);
    text.add(" by the code at ");
    text.hex(register(libc::REG_RIP));
    text.add(if in_region(tls::thread_pointer() as usize) { " in a mobile task" } else { "" });
    text.add(", stack pointer ");
    text.hex(register(libc::REG_RSP));
    text.add("\n");
    text.write();
}

/// Says which stack overflowed, if `addr` lies in a guard.
fn report(addr: usize) -> bool {
    let Some(slot) = SlotId::of_addr(addr) else { return false };
    let offset = addr - slot.base();
    let tp = tls::thread_pointer() as usize;
    let layout = Layout { slot };
    let mut text = Text::new();
    if (FIRST_EXTENT_LEN..FIRST_EXTENT_LEN + GUARD_LEN).contains(&offset)
        && tp == layout.tp() as usize
    {
        // SAFETY: the running task's header: it is this thread's identity.
        let header = unsafe { &*layout.header() };
        let stack_len = slot.len() - FIRST_EXTENT_LEN - GUARD_LEN - HEADER_SPACE - tls::TCB_SPACE;
        text.add("\nmigrt: mobile task ");
        text.add(header.entry.name);
        text.add(" (t");
        text.number(u64::from(header.id.home().0));
        text.add(".");
        text.number(header.id.sequence());
        text.add(") has overflowed its stack of ");
        text.number(stack_len as u64 >> 10);
    } else if offset < GUARD_LEN && !in_region(tp) {
        text.add("\nmigrt: a local task has overflowed its stack of ");
        text.number((slot.len() - GUARD_LEN) as u64 >> 10);
    } else {
        return false;
    }
    text.add(
        " KiB; the program ends here. Use less stack (boxes instead of big arrays, fewer levels of \
         recursion)\n",
    );
    text.write();
    true
}

/// Hands the fault to whoever handled it before us.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    pass_on_to(PREVIOUS.get(), signal, info, context);
}

/// Hands the fault to that handler, or has it end the process.
pub(crate) fn pass_on_to(
    previous: Option<&libc::sigaction>,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    match previous {
        Some(previous) if previous.sa_sigaction > libc::SIG_IGN => {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: installed by somebody as a handler; std's takes these arguments.
            let handler: Handler = unsafe { std::mem::transmute(previous.sa_sigaction) };
            handler(signal, info, context);
        }
        _ => {
            // SAFETY: the default action; the instruction is retried and ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Text on the stack: nothing may be allocated here.
struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Text {
    fn new() -> Text {
        Text { bytes: [0; 512], len: 0 }
    }

    fn add(&mut self, text: &str) {
        let len = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
    }

    fn number(&mut self, mut number: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.add(std::str::from_utf8(&digits[at..]).unwrap_or("?"));
    }

    fn hex(&mut self, number: u64) {
        self.add("0x");
        let mut shift = 60 - (number | 1).leading_zeros() / 4 * 4;
        loop {
            let digit = (number >> shift & 15) as usize;
            self.add(&"0123456789abcdef"[digit..=digit]);
            if shift == 0 {
                return;
            }
            shift -= 4;
        }
    }

    fn write(&self) {
        // SAFETY: our own bytes.
        unsafe { libc::write(2, self.bytes.as_ptr().cast(), self.len) };
    }
}
