//! Schedules that somebody else has decided: what `attnc tune` measured, or a file pins.
//!
//! Comes in: for some attentions, by name, values for some fields of their [`Schedule`]. Goes out: the same as
//! data, part of the plan key, so that whatever is kept by that key is kept by them too. What holds: a field that is not given is chosen as
//! without; a field that is given wins over the text's `schedule` clause, and is checked by the same rules
//! ([`choose_with`](super::choose_with)). Not here: files, and which of them is meant.

use std::collections::BTreeMap;

use super::{QueryOrder, Schedule, ScheduleError};

/// Most rows of a call for which keys may be read where they lie.
pub const MAX_DIRECT: i64 = 1024;

/// Fields of one schedule; those that are none are chosen by the compiler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// Query rows of a tile, of each of its heads.
    pub tile_q: Option<i64>,
    /// Keys of a tile.
    pub tile_kv: Option<i64>,
    /// Query heads of a group whose rows share a tile.
    pub heads: Option<i64>,
    /// Order of query tiles.
    pub order: Option<QueryOrder>,
    /// Calls with at most so many query rows read keys and values where they lie.
    pub direct: Option<i64>,
}

impl Override {
    /// Every field as in a schedule.
    pub fn of(s: &Schedule) -> Override {
        Override {
            tile_q: Some(s.tile_q),
            tile_kv: Some(s.tile_kv),
            heads: Some(s.heads),
            order: Some(s.order),
            direct: Some(s.direct),
        }
    }

    /// Whether the heads and the limit of direct reads are possible, where they are given. Tiles are checked with
    /// those of the text.
    pub(super) fn check(&self, most_heads: i64, tile_q: i64, max_rows: i64) -> Result<(), ScheduleError> {
        if let Some(heads) = self.heads
            && (heads < 1 || most_heads % heads != 0 || tile_q * heads > max_rows)
        {
            return Err(ScheduleError::BadHeads { heads, most: most_heads, tile_q, max_rows });
        }
        match self.direct {
            Some(n) if !(0..=MAX_DIRECT).contains(&n) => {
                let rule = "0 to 1024 query rows are possible";
                Err(ScheduleError::BadTile { what: "direct", value: n, rule })
            }
            _ => Ok(()),
        }
    }
}

/// Overrides of a kernel's attentions, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(BTreeMap<String, Override>);

impl Overrides {
    /// Of these attentions.
    pub fn new(of: impl IntoIterator<Item = (String, Override)>) -> Overrides {
        Overrides(of.into_iter().collect())
    }

    /// True where every attention is scheduled by the compiler.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is given for an attention.
    pub fn get(&self, attention: &str) -> Option<&Override> {
        self.0.get(attention)
    }

    /// What is given for an attention, or nothing at all.
    pub fn of(&self, attention: &str) -> Override {
        self.get(attention).copied().unwrap_or_default()
    }

    /// With another override of one attention.
    pub fn with(mut self, attention: &str, of: Override) -> Overrides {
        self.0.insert(attention.to_string(), of);
        self
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Override)> {
        self.0.iter().map(|(name, o)| (name.as_str(), o))
    }

    /// The first name that none of the attentions has.
    pub fn stranger(&self, attentions: &[&str]) -> Option<&str> {
        self.0.keys().map(String::as_str).find(|name| !attentions.contains(name))
    }
}
