use std::collections::BTreeMap;

use super::Happening;

/// How far ahead the wheel reaches, in milliseconds; a power of two.
const REACH: u64 = 1 << 16;

/// What will happen, by the millisecond: a wheel of lists for the near future, a tree for the far one. Within a
/// millisecond, in the order in which it was planned.
pub(crate) struct Agenda {
    wheel: Vec<Vec<Happening>>,
    far: BTreeMap<u64, Vec<Happening>>,
    now_ms: u64,
    /// What happens now, last first.
    present: Vec<Happening>,
}

impl Default for Agenda {
    fn default() -> Agenda {
        let wheel = (0..REACH).map(|_| Vec::new()).collect();
        Agenda { wheel, far: BTreeMap::new(), now_ms: 0, present: Vec::new() }
    }
}

impl Agenda {
    /// Plans something, now or later.
    pub fn push(&mut self, at_ms: u64, happening: Happening) {
        let at_ms = at_ms.max(self.now_ms);
        if at_ms - self.now_ms < REACH {
            self.wheel[(at_ms % REACH) as usize].push(happening);
        } else {
            self.far.entry(at_ms).or_default().push(happening);
        }
    }

    /// The next thing, if it happens before `end_ms`.
    pub fn pop(&mut self, end_ms: u64) -> Option<(u64, Happening)> {
        loop {
            if let Some(happening) = self.present.pop() {
                return Some((self.now_ms, happening));
            }
            let slot = (self.now_ms % REACH) as usize;
            if self.wheel[slot].is_empty() {
                if self.now_ms + 1 >= end_ms {
                    return None;
                }
                self.now_ms += 1;
                self.near();
                continue;
            }
            self.present = std::mem::take(&mut self.wheel[slot]);
            self.present.reverse();
        }
    }

    /// What was far and is near now gets onto the wheel.
    fn near(&mut self) {
        while let Some(entry) = self.far.first_entry() {
            if *entry.key() - self.now_ms >= REACH {
                return;
            }
            let slot = (*entry.key() % REACH) as usize;
            self.wheel[slot].extend(entry.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(agenda: &mut Agenda, end_ms: u64) -> Vec<(u64, u32)> {
        let mut names = Vec::new();
        while let Some((at, happening)) = agenda.pop(end_ms) {
            if let Happening::Tick(name) = happening {
                names.push((at, name));
            }
        }
        names
    }

    #[test]
    fn things_happen_in_order_near_and_far() {
        let mut agenda = Agenda::default();
        for (name, at) in [(1, 5), (2, 5), (3, REACH + 7), (4, 0), (5, 3 * REACH)] {
            agenda.push(at, Happening::Tick(name));
        }
        assert_eq!(names(&mut agenda, REACH), [(0, 4), (5, 1), (5, 2)]);
        agenda.push(REACH + 7, Happening::Tick(6));
        assert_eq!(names(&mut agenda, 4 * REACH), [(REACH + 7, 3), (REACH + 7, 6), (3 * REACH, 5)]);
    }

    #[test]
    fn what_is_planned_for_now_happens_now() {
        let mut agenda = Agenda::default();
        agenda.push(3, Happening::Tick(1));
        assert!(agenda.pop(10).is_some());
        agenda.push(1, Happening::Tick(2));
        assert_eq!(names(&mut agenda, 10), [(3, 2)]);
    }
}
