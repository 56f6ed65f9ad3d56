//! The smaller summaries of a table: the same rows by fewer dimensions.
//!
//! A summary by all dimensions of requests has hardly fewer rows than there are requests, and most
//! questions ask for few of them. So a table of events is summarised several times, each time by
//! the dimensions of some [facets](Facet) only, and a query reads the smallest that has what it
//! names:
//!
//! ```text
//! Full      owner × outcome × operation × peer × place
//! Endpoint  owner × outcome × operation
//! Edge      owner × outcome × peer
//! Service   owner × outcome
//! ```

use crate::column::{ColumnDef, Facet, PxlType};
use crate::table::{TableDef, TableKind};

/// A choice of a table's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cube {
    /// All dimensions.
    Full,
    /// Who did what, and how it ended.
    Endpoint,
    /// Who spoke with whom, and how it ended.
    Edge,
    /// Who, and how it ended.
    Service,
}

impl Cube {
    /// The name in folders and in SQL; empty for [`Full`](Self::Full).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "",
            Self::Endpoint => "endpoint",
            Self::Edge => "edge",
            Self::Service => "service",
        }
    }

    /// The cubes that have all of its dimensions and more.
    pub const fn wider(self) -> &'static [Self] {
        match self {
            Self::Full => &[],
            Self::Endpoint | Self::Edge => &[Self::Full],
            Self::Service => &[Self::Full, Self::Endpoint, Self::Edge],
        }
    }

    const fn keeps(self, facet: Facet) -> bool {
        match facet {
            Facet::Owner | Facet::Outcome => true,
            Facet::Operation => matches!(self, Self::Full | Self::Endpoint),
            Facet::Peer => matches!(self, Self::Full | Self::Edge),
            Facet::Place => matches!(self, Self::Full),
        }
    }

    /// The dimensions of `table` that it keeps, in their order.
    pub fn dimensions(self, table: &TableDef) -> impl Iterator<Item = &'static ColumnDef> {
        table.dimensions().filter(move |dimension| self.keeps(dimension.facet))
    }

    /// The dimensions that are replaced by `*` where a window has too many groups, the first one
    /// first: templates, then other texts of the operation, then the peer, then the place. Owner and
    /// outcome never are, so totals by service stay exact. An entity's counters are never folded,
    /// of a gauge's texts only the last one is, and of a stack nothing but the stack.
    pub fn folds(self, table: &TableDef) -> Vec<&'static ColumnDef> {
        let of = |facet: Facet| {
            let texts = self.dimensions(table).filter(|d| d.pxl_type == PxlType::String);
            let mut texts: Vec<_> = texts.filter(|d| d.facet == facet).collect();
            texts.reverse();
            texts.sort_by_key(|dimension| dimension.template_of.is_none());
            texts
        };
        match table.kind {
            TableKind::Event => {
                let facets = [Facet::Operation, Facet::Peer, Facet::Place];
                facets.into_iter().flat_map(of).collect()
            }
            TableKind::Gauge | TableKind::Stacks => {
                of(Facet::Operation).into_iter().take(1).collect()
            }
            TableKind::Counter | TableKind::State | TableKind::Record => Vec::new(),
        }
    }
}

impl TableDef {
    /// The cubes that it is summarised by, [`Cube::Full`] first; none that would only repeat
    /// another.
    pub fn cubes(&self) -> impl Iterator<Item = Cube> {
        let is_event = self.kind == TableKind::Event;
        let has = |facet| is_event && self.dimensions().any(|d| d.facet == facet);
        let (operation, peer) = (has(Facet::Operation), has(Facet::Peer));
        let further = [
            (operation && (peer || has(Facet::Place)), Cube::Endpoint),
            (operation && peer, Cube::Edge),
            (operation || peer, Cube::Service),
        ];
        let further = further.into_iter().filter_map(|(is_there, cube)| is_there.then_some(cube));
        self.kind.is_summarised().then_some(Cube::Full).into_iter().chain(further)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{ALL, HTTP_EVENTS, OTEL_METRICS, PROCESS_STATS, PROCESSES, STACK_TRACES};

    fn names(columns: impl IntoIterator<Item = &'static ColumnDef>) -> Vec<&'static str> {
        columns.into_iter().map(|column| column.name).collect()
    }

    #[test]
    fn requests_are_summarised_by_endpoint_edge_and_service() {
        let cubes: Vec<_> = HTTP_EVENTS.cubes().collect();
        assert_eq!(cubes, [Cube::Full, Cube::Endpoint, Cube::Edge, Cube::Service]);
        let of = |cube: Cube| names(cube.dimensions(&HTTP_EVENTS));
        assert_eq!(of(Cube::Full), names(HTTP_EVENTS.dimensions()));
        for cube in &cubes {
            for wider in cube.wider() {
                let all = of(*wider);
                assert!(of(*cube).iter().all(|name| all.contains(name)), "{cube:?}");
            }
        }
        let owner = ["trace_role", "resp_status", "service", "namespace", "node"];
        assert_eq!(of(Cube::Service), owner);
        assert!(of(Cube::Endpoint).contains(&"req_path_template"));
        assert!(!of(Cube::Endpoint).contains(&"remote_service"));
        assert!(of(Cube::Edge).contains(&"remote_pod"));
    }

    #[test]
    fn what_has_an_entity_is_summarised_once_and_what_is_kept_not_at_all() {
        for table in [&PROCESS_STATS, &OTEL_METRICS, &STACK_TRACES] {
            assert_eq!(table.cubes().collect::<Vec<_>>(), [Cube::Full], "{}", table.name);
        }
        assert_eq!(PROCESSES.cubes().count(), 0);
    }

    #[test]
    fn paths_are_folded_first_then_the_peer_then_the_place_and_never_the_service() {
        let folds = names(Cube::Full.folds(&HTTP_EVENTS));
        assert_eq!(
            folds,
            ["req_path_template", "req_method", "remote_pod", "remote_service", "container", "pod"]
        );
        assert_eq!(names(Cube::Edge.folds(&HTTP_EVENTS)), ["remote_pod", "remote_service"]);
        assert_eq!(names(Cube::Service.folds(&HTTP_EVENTS)), [""; 0]);
        assert_eq!(names(Cube::Full.folds(&PROCESS_STATS)), [""; 0]);
        assert_eq!(names(Cube::Full.folds(&OTEL_METRICS)), ["attributes"]);
        assert_eq!(names(Cube::Full.folds(&STACK_TRACES)), ["stack_trace"]);
    }

    #[test]
    fn only_tables_of_counters_have_counters_and_only_tables_of_versions_have_lives() {
        for table in ALL {
            for column in table.columns {
                let counter = column.role == crate::Role::Counter;
                assert!(!counter || table.kind == TableKind::Counter, "{}", table.name);
                let life = column.life != crate::Life::None;
                assert!(!life || table.kind == TableKind::State, "{}", table.name);
            }
            let versions = table.kind == TableKind::State;
            assert_eq!(table.life(crate::Life::Key).is_some(), versions, "{}", table.name);
        }
    }
}
