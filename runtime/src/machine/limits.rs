//! Limits of this process and this machine, read and not judged.
//!
//! A limit that is not set is `None`, as is one that cannot be read.

use super::kernel::read;

/// How the kernel promises memory, `vm.overcommit_memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overcommit {
    /// 0: obvious excess is refused.
    Heuristic,
    /// 1: nothing is refused.
    Always,
    /// 2: no more than there is; reservations count in full.
    Never,
}

/// The limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// `vm.overcommit_memory`.
    pub overcommit: Option<Overcommit>,
    /// `vm.max_map_count`.
    pub map_count_max: Option<u64>,
    /// Bytes of address space (`ulimit -v`).
    pub address_space_len: Option<u64>,
    /// Open files that the process may have (`ulimit -n`).
    pub file_count: Option<u64>,
    /// Open files that it may ask for (`ulimit -Hn`).
    pub file_count_max: Option<u64>,
    /// Cores that the process may use.
    pub cores: usize,
    /// Bytes of memory of the machine.
    pub memory_len: Option<u64>,
    /// Bytes of memory that its control group leaves it.
    pub group_memory_len: Option<u64>,
}

impl Limits {
    /// Reads them.
    #[must_use]
    pub fn read() -> Limits {
        let number = |path: &str| read(path).and_then(|text| text.parse::<u64>().ok());
        let overcommit = match number("/proc/sys/vm/overcommit_memory") {
            Some(0) => Some(Overcommit::Heuristic),
            Some(1) => Some(Overcommit::Always),
            Some(2) => Some(Overcommit::Never),
            _ => None,
        };
        let (file_count, file_count_max) = limit(libc::RLIMIT_NOFILE);
        Limits {
            overcommit,
            map_count_max: number("/proc/sys/vm/max_map_count"),
            address_space_len: limit(libc::RLIMIT_AS).0,
            file_count,
            file_count_max,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_len: read("/proc/meminfo").as_deref().and_then(total_memory),
            group_memory_len: read("/proc/self/cgroup")
                .and_then(|groups| group_memory(&groups, &|path| read(path))),
        }
    }
}

/// The limit in force and the one that may be asked for.
fn limit(resource: libc::__rlimit_resource_t) -> (Option<u64>, Option<u64>) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes to `limit`.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return (None, None);
    }
    let finite = |value| (value != libc::RLIM_INFINITY).then_some(value);
    (finite(limit.rlim_cur), finite(limit.rlim_max))
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The lowest limit on the way from the process's group to the root. `groups` is the text of
/// `/proc/self/cgroup`; version 2 has the line `0::/path`, version 1 one with `memory`.
fn group_memory(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let mut lowest = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(kind), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = match kind {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if kind.split(',').any(|kind| kind == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            // Version 1 says "no limit" by a number close to the largest; version 2 by `max`.
            let found = read(&format!("{root}{path}/{file}")).and_then(|text| text.parse().ok());
            let found = found.filter(|len: &u64| *len < 1 << 62);
            lowest = [lowest, found].into_iter().flatten().min();
            match path.rfind('/') {
                Some(at) => path = &path[..at],
                None => break,
            }
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cores_memory_and_mappings() {
        let limits = Limits::read();
        assert!(limits.cores >= 1);
        assert!(limits.memory_len.unwrap() > 64 << 20, "{limits:?}");
        assert!(limits.map_count_max.unwrap() >= 1000, "{limits:?}");
        assert!(limits.file_count <= limits.file_count_max || limits.file_count_max.is_none());
    }

    #[test]
    fn the_lowest_limit_of_the_groups_above_counts() {
        let files = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/a/b/memory.max" => "max",
                "/sys/fs/cgroup/a/memory.max" => "1000",
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => "9223372036854771712",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "2000",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(group_memory("0::/a/b", &files), Some(1000));
        assert_eq!(group_memory("0::/", &files), None);
        assert_eq!(group_memory("5:cpu,cpuacct:/a\n4:memory:/x", &files), Some(2000));
        assert_eq!(group_memory("no colon", &files), None);
    }
}
