//! Histories that are judged in pieces are judged as if they were whole: what is linearizable by construction is never
//! accused, wherever it turns out to be too long.

use checker::generate::{Mix, Settings, history};
use checker::{Limit, Options, Verdict, check};
use stdx::Prng;

/// A history as text.
fn text(settings: Settings, seed: u64) -> Vec<u8> {
    let mut text = Vec::new();
    let mut writer = history::Writer::new(&mut text);
    for event in history(settings, &mut Prng::from_seed(seed)) {
        writer.write(&event).expect("a vector takes everything");
    }
    text
}

#[test]
fn no_cut_is_made_where_something_is_under_way() {
    let mix = Mix { reads: 50, writes: 40, cas: 10, ..Mix::default() };
    // Keys with many clients: hardly a read but some write is under way beside it.
    let base = Settings { unknown_per_mille: 2, failed_per_mille: 100, ..Settings::yardstick() };
    let settings = Settings { operations: 12_000, keys: 8, mix, ..base };
    let mut pieces = 0;
    for seed in 0..20 {
        let text = text(settings, seed);
        for whole_max in [1_000, 6_000, 11_000] {
            let options = Options { whole_max, limit: Limit::steps(50_000_000), ..Options::default() };
            let report = check(text.as_slice(), &options).expect("readable");
            assert_eq!(report.verdict, Verdict::Valid, "seed {seed}, {whole_max}: {:#?}", report.violations);
            assert_eq!(report.ops, settings.operations);
            pieces += report.windows;
        }
    }
    assert!(pieces > 200, "{pieces} pieces in all");
}
