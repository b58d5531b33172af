//! The lanes of an unordered destination: what was just accepted goes before what has waited, and
//! that before what somebody replays.
//!
//! A delivery is *live* for [`LIVE_FOR`] after it was accepted, and *backlog* from then on, as is
//! everything that was read back from disk. What an operator asked for is a *replay*, for good. None
//! starves: each of the lanes behind gets at least one turn in eight while it has something ready.

use std::time::Duration;

/// How long a delivery is live.
pub const LIVE_FOR: Duration = Duration::from_secs(5);

/// Turns that a lane lets pass while it has something ready: it gets the next one.
const PASSED_MAX: u8 = 6;

/// Where a delivery waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Just accepted.
    Live,
    /// It has waited: no agent was there, or took it in time. Everything ordered is here, too.
    Backlog,
    /// An operator asked for it.
    Replay,
}

impl Lane {
    /// The lane of something unordered that has been owed since a time.
    pub fn of(is_replay: bool, owed_for: Duration) -> Self {
        if is_replay {
            Self::Replay
        } else if owed_for < LIVE_FOR {
            Self::Live
        } else {
            Self::Backlog
        }
    }

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Backlog => "backlog",
            Self::Replay => "replay",
        }
    }
}

/// Which lanes have something ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready {
    /// Something just accepted.
    pub live: bool,
    /// Something that has waited.
    pub backlog: bool,
    /// Something replayed.
    pub replay: bool,
}

/// Whose turn it is at one destination.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turns {
    /// Turns in a row that went to others while these had something ready.
    backlog_passed: u8,
    replay_passed: u8,
}

impl Turns {
    /// The lane whose turn it is; none if nothing is ready.
    pub fn next(self, ready: Ready) -> Option<Lane> {
        if ready.replay && self.replay_passed >= PASSED_MAX {
            Some(Lane::Replay)
        } else if ready.backlog && self.backlog_passed >= PASSED_MAX {
            Some(Lane::Backlog)
        } else if ready.live {
            Some(Lane::Live)
        } else if ready.backlog {
            Some(Lane::Backlog)
        } else {
            ready.replay.then_some(Lane::Replay)
        }
    }

    /// Takes note that a lane had its turn.
    pub fn took(&mut self, lane: Lane, ready: Ready) {
        let passed = |passed: u8, mine: Lane, ready: bool| {
            if lane == mine || !ready {
                0
            } else {
                passed.saturating_add(1)
            }
        };
        self.backlog_passed = passed(self.backlog_passed, Lane::Backlog, ready.backlog);
        self.replay_passed = passed(self.replay_passed, Lane::Replay, ready.replay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(lanes: &str) -> Ready {
        Ready {
            live: lanes.contains('L'),
            backlog: lanes.contains('B'),
            replay: lanes.contains('R'),
        }
    }

    #[track_caller]
    fn check(lanes: &str, expected: &str) {
        let mut turns = Turns::default();
        let taken = expected.chars().map(|_| {
            let lane = turns.next(ready(lanes)).unwrap();
            turns.took(lane, ready(lanes));
            match lane {
                Lane::Live => 'L',
                Lane::Backlog => 'B',
                Lane::Replay => 'R',
            }
        });
        assert_eq!(taken.collect::<String>(), expected, "{lanes}");
    }

    #[test]
    fn live_goes_first_and_nobody_starves() {
        check("L", "LLLLLLLLLL");
        check("LB", "LLLLLLBLLLLLLB");
        check("LR", "LLLLLLRLLLLLLR");
        check("BR", "BBBBBBRBBBBBBR");
        check("LBR", "LLLLLLRBLLLLLRBLLLLLRB");
        check("R", "RRRR");
        assert_eq!(Turns::default().next(Ready::default()), None);
    }

    #[test]
    fn what_arrives_alone_goes_at_once() {
        let mut turns = Turns::default();
        for _ in 0..100 {
            turns.took(Lane::Live, ready("LB"));
            for _ in 0..20 {
                turns.took(turns.next(ready("BR")).unwrap(), ready("BR"));
            }
            turns.took(Lane::Backlog, ready("B"));
            assert_eq!(turns.next(ready("LB")), Some(Lane::Live));
        }
    }

    #[test]
    fn a_lane_gets_at_least_one_turn_in_eight() {
        let mut turns = Turns::default();
        let mut counts = [0_u32; 3];
        for _ in 0..8000 {
            let lane = turns.next(ready("LBR")).unwrap();
            turns.took(lane, ready("LBR"));
            counts[lane as usize] += 1;
        }
        assert!(counts[1] >= 1000 && counts[2] >= 1000, "{counts:?}");
        assert!(counts[0] >= 5000, "{counts:?}");
    }

    #[test]
    fn age_decides() {
        let just = LIVE_FOR.saturating_sub(Duration::from_millis(1));
        assert_eq!(Lane::of(false, Duration::ZERO), Lane::Live);
        assert_eq!(Lane::of(false, just), Lane::Live);
        assert_eq!(Lane::of(false, LIVE_FOR), Lane::Backlog);
        assert_eq!(Lane::of(true, Duration::ZERO), Lane::Replay);
    }
}
