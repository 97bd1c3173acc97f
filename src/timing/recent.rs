//! What was recorded lately of each key, for as many keys as were recorded lately: callers choose keys, so both are bounded.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Values by key; the key recorded longest ago leaves for a new one.
pub(super) struct Recent<K, V> {
    values: HashMap<K, Entry<V>>,
    /// The keys in the order in which they were last recorded.
    order: BTreeMap<u64, K>,
    clock: u64,
    most: usize,
}

struct Entry<V> {
    recorded: u64,
    value: V,
}

impl<K: Hash + Eq + Clone, V: Default> Recent<K, V> {
    /// Room for `most` keys.
    pub(super) fn new(most: usize) -> Self {
        Self { values: HashMap::new(), order: BTreeMap::new(), clock: 0, most }
    }

    /// The value of `key`, which is the most recently recorded one from now on.
    pub(super) fn record(&mut self, key: &K) -> &mut V {
        self.clock += 1;
        let known = self.values.get(key).and_then(|entry| self.order.remove(&entry.recorded));
        let key = known.unwrap_or_else(|| {
            while self.values.len() >= self.most
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.values.remove(&oldest);
            }
            key.clone()
        });
        self.order.insert(self.clock, key.clone());
        let entry = self.values.entry(key).or_insert_with(|| Entry { recorded: 0, value: V::default() });
        entry.recorded = self.clock;
        &mut entry.value
    }

    /// The value of `key`, where it was recorded.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|entry| &entry.value)
    }

    /// All that is known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.values.iter().map(|(key, entry)| (key, &entry.value))
    }
}

/// The last `N` of what was pushed.
pub(super) struct Ring<T, const N: usize> {
    items: Vec<T>,
    next: usize,
}

impl<T, const N: usize> Default for Ring<T, N> {
    fn default() -> Self {
        Self { items: Vec::new(), next: 0 }
    }
}

impl<T, const N: usize> Ring<T, N> {
    pub(super) fn push(&mut self, item: T) {
        if self.items.len() < N {
            self.items.push(item);
        } else {
            self.items[self.next] = item;
            self.next = (self.next + 1) % N;
        }
    }

    /// From the newest to the oldest.
    pub(super) fn newest(&self) -> impl Iterator<Item = &T> {
        let length = self.items.len();
        (1..=length).map(move |back| &self.items[(self.next + length - back) % length])
    }

    /// In no order.
    pub(super) fn items(&self) -> &[T] {
        &self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bounded_and_the_one_recorded_longest_ago_leaves() {
        let mut recent: Recent<u32, u32> = Recent::new(4);
        *recent.record(&1000) += 1;
        for key in 0..100 {
            *recent.record(&7000) += 1;
            *recent.record(&key) += 1;
        }
        assert_eq!((recent.values.len(), recent.order.len()), (4, 4));
        assert_eq!((recent.get(&7000), recent.get(&1000)), (Some(&100), None));
        let mut keys: Vec<_> = recent.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [97, 98, 99, 7000]);
    }

    #[test]
    fn a_ring_holds_the_last_of_what_was_pushed() {
        let mut ring: Ring<u32, 3> = Ring::default();
        assert!(ring.items().is_empty());
        for item in 0..8 {
            ring.push(item);
        }
        let mut items = ring.items().to_vec();
        items.sort_unstable();
        assert_eq!(items, [5, 6, 7]);
        assert!(ring.newest().eq(&[7, 6, 5]));
    }
}
