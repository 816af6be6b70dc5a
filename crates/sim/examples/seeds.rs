//! Runs seeds: `cargo run -p sim --example seeds -- FIRST COUNT [planted]`.
use sim::{Options, Planted, run};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let first: u64 = args[1].parse().expect("a first seed");
    let count: u64 = args[2].parse().expect("a count");
    let planted = args.get(3).filter(|name| *name != "none").map(|name| {
        *Planted::ALL.iter().find(|p| format!("{p:?}") == *name).expect("a planted bug's name")
    });
    let keep_log = args.get(4).is_some();
    let started = std::time::Instant::now();
    let (mut answered, mut faults, mut bad) = (0, 0, 0);
    for seed in first..first + count {
        let report = run(seed, Options { planted, keep_log });
        answered += report.answered;
        faults += report.faults;
        if let Some(violation) = report.violation {
            bad += 1;
            if bad <= 5 {
                println!("seed {seed}: {violation:?}");
            }
            if keep_log {
                std::fs::write("/tmp/sim.log", report.log.text()).expect("written");
                println!("{}", report.swarm);
                break;
            }
        }
    }
    println!("{count} seeds, {bad} bad, {answered} answered, {faults} faults, {:?}", started.elapsed());
}
