//! What processes used, as the kernel counts it.

/// Clock ticks of a second in `/proc`: the same on every Linux of a user's.
const TICKS: f64 = 100.0;

/// Seconds that these processes have spent on processors, in all their threads, those that ended included.
pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| of_one(&pid.to_string())).sum()
}

/// The same of this process.
pub(crate) fn own_cpu_seconds() -> f64 {
    of_one("self")
}

fn of_one(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything: the state is field 3, user and system time are 14 and 15.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS
}

/// Bytes of memory that these processes have resident.
pub(crate) fn resident(pids: &[u32]) -> u64 {
    let of_one = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line =
            status.lines().find(|line| line.starts_with("VmRSS:")).map(str::to_owned).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
    };
    pids.iter().map(of_one).sum()
}
