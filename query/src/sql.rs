//! SQL over the same tables, read-only: every column by its name, context included; rows in memory
//! and on disk. Summaries are there as tables of states: `http_events__10s`, the smaller ones as
//! `http_events__10s_service`; single rows that stand for many are in `http_events__exemplars`.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::DataFusionError;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use undine_schema::{TimeNs, tables};

use crate::answer::{Note, ResultTable};
use crate::engine::{Engine, Error};
use crate::plan::{Fault, Moment, Origin};
use crate::provider::Span;
use crate::time_text::show_width;

impl Engine {
    /// Answers one SQL query over the rows that are kept; anything but reading is refused.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn sql(&self, query: &str) -> Result<ResultTable, Error> {
        let timeout = self.config().timeout;
        match tokio::time::timeout(timeout, self.sql_untimed(query)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Error::Timeout(timeout)),
        }
    }

    async fn sql_untimed(&self, query: &str) -> Result<ResultTable, Error> {
        if query.len() > self.config().script_bytes_max {
            let limit = self.config().script_bytes_max;
            return Err(Error::Sql(format!("it has more than {limit} bytes")));
        }
        let context = self.session();
        let origins = self.register_tables(&context).map_err(|fault| self.run_error(fault))?;
        let options = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        let wrong = |error: DataFusionError| Error::Sql(error.strip_backtrace());
        let frame = context.sql_with_options(query, options).await.map_err(wrong)?;
        let used = tables_used(frame.logical_plan());
        let rows_max = self.config().rows_max;
        let frame = frame.limit(0, Some(rows_max.saturating_add(1))).map_err(wrong)?;
        let schema = Arc::clone(frame.schema().inner());
        let failed = |error: DataFusionError| self.run_error(error.into());
        let mut stream = frame.execute_stream().await.map_err(failed)?;
        let mut notes = Vec::new();
        let mut sources = Vec::new();
        for (table, origin) in origins {
            if used.iter().any(|name| name == table) {
                notes.extend(origin.notes);
                sources.extend(origin.sources);
            }
        }
        let (mut batches, mut room) = (Vec::new(), rows_max);
        while let Some(batch) = stream.try_next().await.map_err(failed)? {
            let kept = batch.slice(0, batch.num_rows().min(room));
            if kept.num_rows() < batch.num_rows() {
                notes.push(Note::RowsCut { rows_max });
            }
            room -= kept.num_rows();
            if kept.num_rows() > 0 {
                batches.push(kept);
            }
        }
        Ok(ResultTable { name: "output".to_owned(), schema, batches, notes, sources })
    }

    fn register_tables(
        &self,
        context: &SessionContext,
    ) -> Result<Vec<(&'static str, Origin)>, Fault> {
        let now = self.config().clock.now().get();
        let moment = Moment { now, since: now, strict: false };
        let mut planner = self.plain_planner(context.clone(), moment);
        let everything = Span { from: i64::MIN, until: i64::MAX };
        let mut origins = Vec::new();
        for table in tables::readable() {
            let snapshot = planner.snapshot(table);
            let mut origin = Origin::default();
            let rows = planner.rows_in(table, &snapshot, everything, &mut origin)?;
            let horizon = crate::plan::horizon(&snapshot);
            if crate::plan::has_older(&snapshot, horizon) {
                origin.notes.push(Note::Clipped {
                    table: table.name,
                    asked: None,
                    from: TimeNs::new(horizon),
                    reason: format!("SQL reads rows; older windows are in {}__…", table.name),
                });
            }
            let view: Arc<dyn TableProvider> = Arc::new(ViewTable::new(rows, None));
            for name in tables::names_of(table) {
                context.register_table(TableReference::bare(name), Arc::clone(&view))?;
                origins.push((name, origin.clone()));
            }
            let tiers = snapshot.tiers.iter().chain(&snapshot.cubes);
            for tier in tiers.chain(&snapshot.exemplars) {
                let width = i64::try_from(tier.width.as_nanos()).unwrap_or(i64::MAX);
                let name = match tier.cube.name() {
                    _ if snapshot
                        .exemplars
                        .as_ref()
                        .is_some_and(|rows| std::ptr::eq(rows, tier)) =>
                    {
                        format!("{}__exemplars", table.name)
                    }
                    "" => format!("{}__{}", table.name, show_width(width)),
                    cube => format!("{}__{}_{cube}", table.name, show_width(width)),
                };
                let (files, rows) = planner.files_of(tier, everything)?;
                let files = if rows == 0 {
                    Arc::new(MemTable::try_new(Arc::clone(&tier.schema), vec![Vec::new()])?)
                } else {
                    files
                };
                context.register_table(TableReference::bare(name), files)?;
            }
        }
        Ok(origins)
    }
}

/// The names of the tables that a plan reads.
fn tables_used(plan: &datafusion::logical_expr::LogicalPlan) -> Vec<String> {
    use datafusion::common::tree_node::TreeNodeRecursion;
    use datafusion::logical_expr::LogicalPlan;
    let mut names = Vec::new();
    let visited = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(scan) => names.push(scan.table_name.table().to_owned()),
            LogicalPlan::SubqueryAlias(alias) => names.push(alias.alias.table().to_owned()),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "the visitor does not fail");
    names
}
