//! Endpoints found among request paths: paths of one depth that differ in a few components are
//! one, with `*` for those.
//!
//! A path joins the cluster of its depth that shares most components with it, if that is at least
//! half of them. A cluster with fewer than five different members still says each member itself.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility,
};
use serde_json::{Value, json};

use super::{Registry, S};

/// Different members from which on a cluster is one endpoint.
const MEMBERS_MIN: usize = 5;
/// Clusters of one model; paths that fit none of them when there are so many stay themselves.
const CLUSTERS_MAX: usize = 1000;

pub(crate) fn declare(r: &mut Registry) {
    r.plain(
        "_predict_request_path_cluster",
        &[S, S],
        S,
        Box::new(|_, inputs| {
            // One model stands in all rows, as a rule.
            let known: RefCell<(String, Clusters)> = RefCell::default();
            inputs.rows_of(|row| {
                let (path, model) = (row.text(0)?, row.text(1)?);
                let mut known = known.borrow_mut();
                if known.0 != model {
                    *known = (model.to_owned(), Clusters::read(model));
                }
                Ok(known.1.endpoint(path))
            })
        }),
    );
}

/// The clusters of paths, as the JSON text that `_predict_request_path_cluster` takes.
pub(crate) fn fitted(paths: Expr) -> Expr {
    let signature = Signature::exact(vec![DataType::Utf8], Volatility::Immutable);
    AggregateUDF::new_from_impl(Fit { signature }).call(vec![paths])
}

type Path = Vec<String>;

/// The components of a path without its query.
fn components(path: &str) -> Path {
    let path = path.split('?').next().unwrap_or_default();
    path.strip_prefix('/').unwrap_or(path).split('/').map(str::to_owned).collect()
}

fn text(path: &[String]) -> String {
    format!("/{}", path.join("/"))
}

/// The share of components that are the same, wildcards not counted.
#[expect(clippy::cast_precision_loss, reason = "a path has far fewer than 2^52 components")]
fn similarity(a: &[String], b: &[String]) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a == b && *a != "*").count();
    same as f64 / a.len().max(1) as f64
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cluster {
    /// What all members share, `*` for the rest.
    centroid: Path,
    /// Different members, no more than make it an endpoint.
    members: BTreeSet<Path>,
}

impl Cluster {
    fn is_endpoint(&self) -> bool {
        self.members.len() >= MEMBERS_MIN
    }

    fn take(&mut self, other: Self) {
        for (mine, theirs) in self.centroid.iter_mut().zip(&other.centroid) {
            if mine != theirs {
                "*".clone_into(mine);
            }
        }
        for member in other.members {
            if self.is_endpoint() {
                break;
            }
            self.members.insert(member);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Clusters(Vec<Cluster>);

impl Clusters {
    fn nearest(&self, path: &[String]) -> Option<usize> {
        let alike = self.0.iter().enumerate().filter(|(_, c)| c.centroid.len() == path.len());
        let alike = alike.map(|(at, cluster)| (at, similarity(&cluster.centroid, path)));
        let best = alike.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.filter(|(_, similarity)| *similarity >= 0.5).map(|(at, _)| at)
    }

    fn add(&mut self, cluster: Cluster) {
        match self.nearest(&cluster.centroid) {
            Some(at) => {
                let was_endpoint = self.0[at].is_endpoint();
                self.0[at].take(cluster);
                if self.0[at].is_endpoint() && !was_endpoint {
                    self.gather(at);
                }
            }
            None if self.0.len() < CLUSTERS_MAX => {
                let is_endpoint = cluster.is_endpoint();
                self.0.push(cluster);
                if is_endpoint {
                    self.gather(self.0.len() - 1);
                }
            }
            None => {}
        }
    }

    fn add_path(&mut self, path: &str) {
        let path = components(path);
        self.add(Cluster { centroid: path.clone(), members: BTreeSet::from([path]) });
    }

    /// Members of clusters that are no endpoints may belong to the new endpoint at `at`.
    fn gather(&mut self, at: usize) {
        let endpoint = self.0[at].centroid.clone();
        let belongs =
            |path: &Path| path.len() == endpoint.len() && similarity(&endpoint, path) >= 0.5;
        let mut rest = Vec::new();
        for (other, cluster) in std::mem::take(&mut self.0).into_iter().enumerate() {
            if other == at || cluster.is_endpoint() || !cluster.members.iter().any(belongs) {
                rest.push(cluster);
                continue;
            }
            for member in cluster.members.into_iter().filter(|member| !belongs(member)) {
                rest.push(Cluster { centroid: member.clone(), members: BTreeSet::from([member]) });
            }
        }
        self.0 = rest;
    }

    fn merge(&mut self, other: Self) {
        let (endpoints, small): (Vec<_>, Vec<_>) =
            other.0.into_iter().partition(Cluster::is_endpoint);
        for endpoint in endpoints {
            self.add(endpoint);
        }
        for member in small.into_iter().flat_map(|cluster| cluster.members) {
            self.add(Cluster { centroid: member.clone(), members: BTreeSet::from([member]) });
        }
    }

    fn endpoint(&self, path: &str) -> String {
        let path = components(path);
        match self.nearest(&path).map(|at| &self.0[at]) {
            Some(cluster) if cluster.is_endpoint() => text(&cluster.centroid),
            _ => text(&path),
        }
    }

    fn write(&self) -> String {
        let clusters: Vec<Value> =
            self.0.iter().map(|c| json!({"c": c.centroid, "m": c.members})).collect();
        Value::from(clusters).to_string()
    }

    /// What [`write`](Self::write) wrote; a text that is something else has no clusters.
    fn read(model: &str) -> Self {
        let clusters: Vec<Value> = serde_json::from_str(model).unwrap_or_default();
        let paths = |value: &Value| serde_json::from_value::<Vec<String>>(value.clone()).ok();
        let cluster = |value: &Value| {
            let members = value.get("m")?.as_array()?.iter().map(paths);
            Some(Cluster {
                centroid: paths(value.get("c")?)?,
                members: members.collect::<Option<_>>()?,
            })
        };
        Self(clusters.iter().filter_map(cluster).take(CLUSTERS_MAX).collect())
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Fit {
    signature: Signature,
}

impl AggregateUDFImpl for Fit {
    fn name(&self) -> &'static str {
        "_build_request_path_clusters"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::<Clusters>::default())
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[clusters]", args.name), DataType::Utf8, false))])
    }
}

impl Accumulator for Clusters {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for path in values.iter().flat_map(|array| array.as_string::<i32>().iter()).flatten() {
            self.add_path(path);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in states.iter().flat_map(|array| array.as_string::<i32>().iter()).flatten() {
            self.merge(Self::read(state));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::from(self.write()))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::from(self.write())])
    }

    fn size(&self) -> usize {
        let paths = self.0.iter().flat_map(|c| c.members.iter().chain([&c.centroid]));
        let bytes: usize =
            paths.map(|path| path.iter().map(|part| part.len() + 24).sum::<usize>()).sum();
        size_of_val(self) + bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters<'a>(paths: impl IntoIterator<Item = &'a str>) -> Clusters {
        let mut clusters = Clusters::default();
        paths.into_iter().for_each(|path| clusters.add_path(path));
        clusters
    }

    #[test]
    fn paths_that_differ_in_one_part_are_an_endpoint_once_there_are_five() {
        let four = clusters(["/a/b/1", "a/b/2?q", "/a/b/3", "/a/b/4", "/a/b/4"]);
        assert_eq!(four.endpoint("/a/b/1"), "/a/b/1");
        let five = clusters(["/a/b/1", "/a/b/2", "/a/b/3", "/a/b/4", "/a/b/5", "/x"]);
        assert_eq!(five.endpoint("/a/b/1?page=7"), "/a/b/*");
        assert_eq!(five.endpoint("/a/b/99"), "/a/b/*");
        assert_eq!(five.endpoint("/x"), "/x");
        assert_eq!(five.endpoint("/c/d/e"), "/c/d/e");
    }

    #[test]
    fn a_model_survives_being_written_and_merges_in_any_order() {
        let endpoint = clusters(["/a/b/1", "/a/b/2", "/a/b/3", "/a/b/4", "/a/b/5"]);
        let small = clusters(["/a/b/3", "/b/b/3", "/c/b/3"]);
        for (first, second) in [(&endpoint, &small), (&small, &endpoint)] {
            let mut merged = Clusters::read(&first.write());
            merged.merge(Clusters::read(&second.write()));
            assert_eq!(merged.endpoint("/a/b/7"), "/a/b/*");
            assert_eq!(merged.endpoint("/c/b/3"), "/c/b/3");
        }
        assert_eq!(Clusters::read("[12 bytes]").endpoint("/a"), "/a");
    }

    #[test]
    fn there_is_an_end_to_clusters() {
        let paths: Vec<String> = (0..2000).map(|number| format!("/only-{number}")).collect();
        let many = clusters(paths.iter().map(String::as_str));
        assert_eq!(many.0.len(), CLUSTERS_MAX);
        assert_eq!(many.endpoint("/only-1999"), "/only-1999");
    }
}
