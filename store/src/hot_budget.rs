//! How the memory for live rows is shared between tables.
//!
//! Memory that a table does not use is there for the others. Where it is short, the table furthest
//! above its share gives first, so that one busy table cannot push out the few rows of a quiet one.

use undine_schema::{TableDef, TableKind};

use crate::config::BuildError;

/// What one table may take of [`hot_bytes_max`](crate::Config::hot_bytes_max).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HotBudget {
    /// The table's name.
    pub table: String,
    /// Percent of the memory that its rows keep where memory is short, 1 to 100. Tables without one
    /// share what is left in equal parts.
    pub share_percent: Option<u8>,
    /// The most bytes that its rows take, also where there is room.
    pub bytes_max: Option<usize>,
    /// Which rows make room; without one see [`Eviction::of`].
    pub eviction: Option<Eviction>,
}

/// Which of a table's rows may go to make room. Sealed rows always may, since they are on disk, and
/// rows of level commit never may before they are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Captured rows that are not sealed go too, oldest first, and are counted in `data_loss`.
    Oldest,
    /// No row goes before it is sealed; where there is no room, new rows are refused.
    SealedOnly,
}

impl Eviction {
    /// What holds for a table that nothing is said about: findings are not evicted unsealed.
    pub fn of(table: &TableDef) -> Self {
        match table.kind {
            TableKind::Record => Self::SealedOnly,
            _ => Self::Oldest,
        }
    }
}

/// What holds for one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) share_bytes: u64,
    pub(crate) bytes_max: u64,
    pub(crate) eviction: Eviction,
}

/// The limits of all tables, in their order.
pub(crate) fn limits_of(
    tables: &[&'static TableDef],
    budgets: &[HotBudget],
    hot_bytes_max: usize,
) -> Vec<Limit> {
    let total = hot_bytes_max as u64;
    let budget_of = |table: &TableDef| budgets.iter().find(|budget| budget.table == table.name);
    let shares: Vec<_> = tables
        .iter()
        .map(|table| budget_of(table).and_then(|budget| budget.share_percent))
        .collect();
    let named: u64 = shares.iter().flatten().map(|&share| u64::from(share)).sum();
    let unnamed = shares.iter().filter(|share| share.is_none()).count().max(1) as u64;
    let rest = total * 100_u64.saturating_sub(named) / 100 / unnamed;
    let limits = tables.iter().zip(shares).map(|(&table, share)| {
        let budget = budget_of(table);
        let bytes_max = budget.and_then(|budget| budget.bytes_max);
        Limit {
            share_bytes: share.map_or(rest, |share| total * u64::from(share) / 100),
            bytes_max: bytes_max.map_or(total, |bytes| (bytes as u64).min(total)),
            eviction: budget
                .and_then(|budget| budget.eviction)
                .unwrap_or_else(|| Eviction::of(table)),
        }
    });
    limits.collect()
}

/// Whether budgets name tables that are kept, once each, and leave nobody without memory.
pub(crate) fn check(tables: &[&'static TableDef], budgets: &[HotBudget]) -> Result<(), BuildError> {
    let refused =
        |value: String, remedy| Err(BuildError::Setting { key: "hot_budgets", value, remedy });
    for (at, budget) in budgets.iter().enumerate() {
        let name = &budget.table;
        if !tables.iter().any(|table| table.name == name) {
            return refused(format!("for {name:?}"), "name a table that is kept");
        }
        if budgets[..at].iter().any(|other| other.table == *name) {
            return refused(format!("twice for {name:?}"), "give each table one budget");
        }
        if budget.share_percent == Some(0) {
            return refused(format!("0 % for {name:?}"), "a share is 1 to 100 percent");
        }
        if budget.bytes_max == Some(0) {
            return refused(format!("0 bytes for {name:?}"), "give the table some room");
        }
    }
    let named: u32 = budgets.iter().filter_map(|b| b.share_percent).map(u32::from).sum();
    let all_named = tables
        .iter()
        .all(|table| budgets.iter().any(|b| b.table == table.name && b.share_percent.is_some()));
    if named > 100 || named == 100 && !all_named {
        return refused(format!("of {named} %"), "leave a part for the tables without a share");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use undine_schema::tables::{ANOMALIES, CONN_STATS, DNS_EVENTS, HTTP_EVENTS};

    use super::*;

    fn share(table: &str, percent: u8) -> HotBudget {
        let table = table.to_owned();
        HotBudget { table, share_percent: Some(percent), ..HotBudget::default() }
    }

    #[test]
    fn tables_without_a_share_get_equal_parts_of_what_is_left() {
        let tables = [&HTTP_EVENTS, &CONN_STATS, &DNS_EVENTS, &ANOMALIES];
        let mut budgets = vec![share("http_events", 40)];
        budgets.push(HotBudget {
            table: "dns_events".to_owned(),
            bytes_max: Some(7),
            ..HotBudget::default()
        });
        check(&tables, &budgets).unwrap();
        let limits = limits_of(&tables, &budgets, 1000);
        let shares: Vec<_> = limits.iter().map(|limit| limit.share_bytes).collect();
        assert_eq!(shares, [400, 200, 200, 200]);
        let most: Vec<_> = limits.iter().map(|limit| limit.bytes_max).collect();
        assert_eq!(most, [1000, 1000, 7, 1000]);
        let oldest: Vec<_> =
            limits.iter().map(|limit| limit.eviction == Eviction::Oldest).collect();
        assert_eq!(oldest, [true, true, true, false]);
    }

    #[test]
    fn budgets_that_cannot_hold_are_refused_with_a_remedy() {
        let tables = [&HTTP_EVENTS, &CONN_STATS];
        let refusals = [
            (vec![share("http_event", 40)], "for \"http_event\""),
            (vec![share("http_events", 40), share("http_events", 4)], "twice"),
            (vec![share("http_events", 0)], "0 %"),
            (vec![share("http_events", 100)], "of 100 %"),
            (vec![share("http_events", 60), share("conn_stats", 60)], "of 120 %"),
        ];
        for (budgets, what) in refusals {
            let error = check(&tables, &budgets).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        check(&tables, &[share("http_events", 60), share("conn_stats", 40)]).unwrap();
    }
}
