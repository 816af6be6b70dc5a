//! From many claims that contradict each other to few: what is not needed for the contradiction is left out, keys
//! first, then operations, in chunks that get smaller.

use crate::claims::Claims;

/// The most steps that one attempt may cost; one that costs more leaves things as they are.
pub(crate) const ATTEMPT_STEPS_MAX: u64 = 200_000;
/// The most steps that all attempts together may cost; what has been reached by then is reported.
const STEPS_MAX: u64 = 4_000_000;

/// Reduces `claims`, which `violated` (with what it cost to find out) is true of, as far as it stays true.
pub(crate) fn smallest<'a>(claims: &Claims<'a>, mut violated: impl FnMut(&Claims<'a>) -> (bool, u64)) -> Claims<'a> {
    let mut least = claims.clone();
    let mut spent = 0;
    let mut attempt = |least: &mut Claims<'a>, part: Claims<'a>| {
        if spent > STEPS_MAX || part.claims.len() == least.claims.len() {
            return false;
        }
        let (still, cost) = violated(&part);
        spent += cost + part.claims.len() as u64;
        if still {
            *least = part;
        }
        still
    };
    let keys = claims.keys.len() as u32;
    let mut chunk = keys.div_ceil(2);
    while chunk > 0 {
        for start in (0..keys).step_by(chunk as usize) {
            let gone = start..start + chunk;
            let part = least.restrict(|index| !gone.contains(&least.claims[index].key));
            attempt(&mut least, part);
        }
        chunk /= 2;
    }
    let mut chunk = least.claims.len().div_ceil(2);
    while chunk > 0 {
        let mut any = false;
        let mut start = 0;
        while start < least.claims.len() {
            let gone = start..start + chunk;
            let part = least.restrict(|index| !gone.contains(&index));
            // What is left has moved up when it worked.
            if attempt(&mut least, part) {
                any = true;
            } else {
                start += chunk;
            }
        }
        if chunk > 1 || !any {
            chunk /= 2;
        }
    }
    least
}
