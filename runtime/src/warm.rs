//! What a node does before its first task, so that lazy statics lie in the node's heap and not in
//! a task's: libc's, std's, and those the program names (facts S1, H3).

use crate::error::Result;

/// Functions of the program that run on every node before its first task.
#[linkme::distributed_slice]
pub static NODE_START: [fn()];

/// Runs a function on every node before its first task: to fill statics, or to initialise a C
/// library whose handles tasks will use.
///
/// # Examples
/// ```
/// fn prepare() {
///     // e.g. sqlite3_initialize()
/// }
/// migrt::on_node_start!(prepare);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! on_node_start {
    ($function:expr) => {
        const _: () = {
            #[$crate::__private::linkme::distributed_slice($crate::__private::NODE_START)]
            #[linkme(crate = $crate::__private::linkme)]
            static START: fn() = $function;
        };
    };
}

/// Fills `LazyLock` statics on every node before its first task. They work without it: a lazy that
/// is first filled inside a task stays with the node when the task leaves. With it, that is idle.
///
/// # Examples
/// ```
/// use std::sync::LazyLock;
/// static TABLE: LazyLock<Vec<u32>> = LazyLock::new(|| (0..100).map(|i| i * i).collect());
/// migrt::warm!(TABLE);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! warm {
    ($($lazy:path),+ $(,)?) => {
        $crate::on_node_start!(|| { $( ::std::sync::LazyLock::force(&$lazy); )+ });
    };
}

/// Libc's and std's own lazies.
pub(crate) fn process() -> Result<()> {
    // Standard output's and error's buffers and locks.
    use std::io::Write;
    let _ = std::io::stdout().lock().flush();
    let _ = std::io::stderr().lock().flush();
    // Symbols for backtraces are cached process-wide: half a megabyte (facts S2).
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
        let _ = std::backtrace::Backtrace::force_capture().to_string();
    }
    // The unwinder sorts its tables at the first panic and keeps the sorted copy.
    let _ = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(())));
    libc_lazies();
    Ok(())
}

fn libc_lazies() {
    // SAFETY: no other thread changes the environment or the time zone now.
    unsafe { tzset() };
    let mut broken_down = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both point to live memory.
    unsafe { libc::localtime_r(&0, broken_down.as_mut_ptr()) };
}

unsafe extern "C" {
    fn tzset();
}

/// The program's.
pub(crate) fn on_node_start() {
    for function in NODE_START {
        function();
    }
}
