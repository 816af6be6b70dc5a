//! Runs seeds of the available fleet: `available FIRST COUNT [PLANTED]`, or replays one: `available SEED`.

fn main() {
    let mut args = std::env::args().skip(1);
    let first: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let Some(count) = args.next().and_then(|text| text.parse::<u64>().ok()) else {
        let report = sim::available::run(first, None, true);
        print!("{}{}", report.log.text(), report.swarm);
        println!("{:?}\n{:?}", report.violation.map(|v| v.to_string()), report.counts);
        return;
    };
    let planted = args.next().map(|name| name.parse().expect("a planted bug's name"));
    let mut counts = sim::available::Counts::default();
    let mut broken = 0;
    let started = std::time::Instant::now();
    for seed in first..first + count {
        let report = sim::available::run(seed, planted, false);
        counts.add(&report.counts);
        if let Some(violation) = report.violation {
            broken += 1;
            let text: String = violation.to_string().chars().take(1500).collect();
            println!("seed {seed}: {text}");
            if planted.is_some() || broken >= 3 {
                break;
            }
        }
    }
    println!("{broken} broken; {counts:?}; {:?}", started.elapsed());
}
