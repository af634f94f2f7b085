//! This process's memory, as reported by the operating system.
//!
//! It does not know about arenas: it is an independent check for the figures of an unload.

use std::path::Path;

/// Resident set size of this process in bytes (`/proc/self/statm`, field 2), or `None` where the system
/// does not tell.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Bytes of memory that a new allocation could get without swapping: what the machine has left (`MemAvailable`),
/// or what the limits of the process's control groups leave it (cgroup v2), whichever is less; `None` where neither
/// is told.
pub fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|info| of_machine(&info));
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok();
    let group = groups.and_then(|groups| of_groups(Path::new("/sys/fs/cgroup"), &groups));
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

fn of_machine(info: &str) -> Option<u64> {
    let line = info.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// The least that any group from the process's own (in `/proc/self/cgroup`) up to the root of the tree leaves.
/// In a container the path may be one of the host's that is not there: the root is the container's own group.
fn of_groups(tree: &Path, groups: &str) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = own.trim().trim_start_matches('/');
    let folders = Path::new(own).ancestors().map(|group| tree.join(group));
    folders.filter_map(|folder| of_group(&folder)).min()
}

/// What a group's limit leaves, cached files aside: the kernel takes those back before it kills.
fn of_group(folder: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // "max" is no number and no limit.
    let limits = [number("memory.max"), number("memory.high")];
    let limit = limits.into_iter().flatten().min()?;
    let inactive = read("memory.stat").and_then(|stat| {
        let line = stat.lines().find_map(|line| line.strip_prefix("inactive_file "))?;
        line.trim().parse::<u64>().ok()
    });
    let used = number("memory.current").unwrap_or(0).saturating_sub(inactive.unwrap_or(0));
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touched_buffer_shows_in_the_resident_set() {
        let before = resident_bytes().unwrap();
        let buffer = vec![1u8; 64 << 20];
        let after = resident_bytes().unwrap();
        assert!(buffer.iter().map(|&b| u64::from(b)).sum::<u64>() > 0);
        assert!(after >= before + (48 << 20), "{before} -> {after}");
    }

    #[test]
    fn the_least_limit_of_any_group_above_counts() {
        let tree = tempfile::tempdir().unwrap();
        let group = |name: &str, files: &[(&str, &str)]| {
            let folder = tree.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|(file, text)| std::fs::write(folder.join(file), text).unwrap());
        };
        let left = |groups: &str| of_groups(tree.path(), groups);
        assert_eq!(left("0::/a/b\n"), None, "no limits anywhere");
        group("a/b", &[("memory.max", "max\n"), ("memory.current", "5\n")]);
        assert_eq!(left("0::/a/b\n"), None, "a limit of `max` is none");
        group("a", &[("memory.max", "1000\n"), ("memory.current", "300\n")]);
        assert_eq!(left("0::/a/b\n"), Some(700), "the group above is limited");
        group("a", &[("memory.stat", "anon 1\ninactive_file 100\nactive_file 7\n")]);
        assert_eq!(left("0::/a/b\n"), Some(800), "cached files are given back first");
        group("a/b", &[("memory.high", "600\n"), ("memory.current", "650\n")]);
        assert_eq!(left("0::/a/b\n"), Some(0), "the nearest is used up");
        assert_eq!(left("0::/a\n"), Some(800));
        // A container sees the host's path, and its own group as the root.
        group("", &[("memory.max", "2000\n"), ("memory.current", "500\n")]);
        assert_eq!(left("0::/docker/1234\n"), Some(1500));
        assert_eq!(left("12:memory:/a\n"), None, "version 1 is not read");
    }

    #[test]
    fn the_machine_tells_what_is_available() {
        assert_eq!(of_machine("MemTotal: 9 kB\nMemAvailable:   12 kB\n"), Some(12 * 1024));
        assert!(available_bytes().is_some_and(|bytes| bytes > 0));
    }
}
