//! Whose turn it is: deficit round robin. Pure.
//!
//! In every round each of those who have something to do may spend an equal share. What they spend is
//! only known afterwards, so a share may be overdrawn, and the debt is paid off in the rounds to come.
//! Nothing is saved up by those who have nothing to do.

use std::collections::BTreeMap;

/// What one delivery costs besides its bytes.
pub(super) const DELIVERY_COST: u64 = 4096;

/// What may be spent in one round by all together. It bounds how long a round takes, and so how long
/// somebody new waits for the next.
pub(super) const ROUND_COST: u64 = 1024 * 1024;

/// The balance of everybody who has something to do.
#[derive(Debug)]
pub(super) struct Rounds<K> {
    balances: BTreeMap<K, i64>,
    /// Who was served last.
    last: Option<K>,
}

impl<K> Default for Rounds<K> {
    fn default() -> Self {
        Self {
            balances: BTreeMap::new(),
            last: None,
        }
    }
}

impl<K: Copy + Ord> Rounds<K> {
    /// A round in which `cost` may be spent: who may spend how much, in turn. Never nobody, if
    /// there is anybody. `ready` is in order.
    pub(super) fn round(&mut self, ready: &[K], cost: u64) -> Vec<(K, u64)> {
        self.balances
            .retain(|key, _| ready.binary_search(key).is_ok());
        let share = (cost / (ready.len() as u64).max(1)).max(DELIVERY_COST);
        let share = i64::try_from(share).unwrap_or(i64::MAX);
        let balance = |rounds: &Self, key| rounds.balances.get(key).copied().unwrap_or(0);
        // Nobody waits while everybody is in debt: as many rounds pass as the least one needs.
        let richest = ready
            .iter()
            .map(|key| balance(self, key))
            .max()
            .unwrap_or(0);
        let rounds = if richest > -share {
            1
        } else {
            -richest / share + 1
        };
        for key in ready {
            let paid = balance(self, key).saturating_add(share.saturating_mul(rounds));
            self.balances.insert(*key, paid.min(share));
        }
        let start = self
            .last
            .map_or(0, |last| ready.partition_point(|key| *key <= last));
        let turn = ready[start..].iter().chain(&ready[..start]);
        turn.filter_map(|key| {
            let positive = u64::try_from(balance(self, key))
                .ok()
                .filter(|left| *left > 0);
            Some((*key, positive?))
        })
        .collect()
    }

    /// Somebody had their turn: the next round begins behind them.
    pub(super) fn served(&mut self, key: K) {
        self.last = Some(key);
    }

    /// Something was spent.
    pub(super) fn charge(&mut self, key: K, cost: u64) {
        if let Some(balance) = self.balances.get_mut(&key) {
            *balance = balance.saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn everybody_gets_an_equal_share_and_a_round_goes_on_where_the_last_one_ended() {
        let mut rounds = Rounds::default();
        let share = ROUND_COST / 2;

        assert_eq!(
            rounds.round(&['a', 'b'], ROUND_COST),
            [('a', share), ('b', share)]
        );
        rounds.served('a');
        assert_eq!(
            rounds.round(&['a', 'b'], ROUND_COST),
            [('b', share), ('a', share)]
        );
        assert_eq!(rounds.round(&['b'], ROUND_COST), [('b', ROUND_COST)]);
        assert_eq!(rounds.round(&[], ROUND_COST), []);
    }

    #[test]
    fn who_overdraws_sits_out_but_never_alone() {
        let mut rounds = Rounds::default();
        rounds.round(&['a', 'b'], ROUND_COST);
        rounds.charge('a', ROUND_COST * 2);

        let b_only = [('b', ROUND_COST / 2)];
        assert_eq!(rounds.round(&['a', 'b'], ROUND_COST), b_only);
        assert_eq!(rounds.round(&['a', 'b'], ROUND_COST), b_only);
        assert_eq!(rounds.round(&['a', 'b'], ROUND_COST), b_only);
        assert_eq!(rounds.round(&['a', 'b'], ROUND_COST).len(), 2);

        rounds.charge('a', ROUND_COST * 100);
        assert_eq!(
            rounds.round(&['a'], ROUND_COST).len(),
            1,
            "nobody else wants anything"
        );
    }

    proptest! {
        /// Over the time in which all want something, nobody is behind anybody by more than a share
        /// and the largest single cost.
        #[test]
        fn nobody_falls_behind(
            costs in proptest::collection::vec(1..3_000_000_u64, 2..6), rounds_made in 1..300_usize,
        ) {
            let ready: Vec<usize> = (0..costs.len()).collect();
            let mut rounds = Rounds::default();
            let mut spent = vec![0_u64; costs.len()];
            for _ in 0..rounds_made {
                let turn = rounds.round(&ready, ROUND_COST);
                prop_assert!(!turn.is_empty());
                for (who, mut budget) in turn {
                    // Spends in steps of its own size, the last one beyond the budget.
                    while budget > 0 {
                        rounds.charge(who, costs[who]);
                        spent[who] += costs[who];
                        budget = budget.saturating_sub(costs[who]);
                    }
                }
            }
            let (least, most) = (spent.iter().min().unwrap(), spent.iter().max().unwrap());
            let slack = 2 * ROUND_COST / costs.len() as u64 + 2 * costs.iter().max().unwrap();
            prop_assert!(most - least <= slack, "{spent:?}");
        }
    }
}
