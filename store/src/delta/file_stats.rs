//! One file of a tier, as its Delta log names it.
//!
//! Readers prune by `stats`; what else a snapshot needs to know stands in `tags`.

use serde_json::{Value, json};
use undine_schema::{Seq, TimeNs};

/// A file of the present version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileStats {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) source_rows: u64,
    pub(crate) first_time: TimeNs,
    pub(crate) last_time: TimeNs,
    pub(crate) first_window: TimeNs,
    pub(crate) last_window: TimeNs,
    /// Of raw rows, the least and the greatest place.
    pub(crate) places: Option<(Seq, Seq)>,
}

impl FileStats {
    /// The action that adds the file.
    pub(super) fn add(&self, now_ms: i64, data_change: bool, raw: bool) -> Value {
        let (first, last) = (self.first_time.get(), self.last_time.get());
        let windows = (self.first_window.get(), self.last_window.get());
        let (least, most) = if raw {
            (json!({"time_": first}), json!({"time_": last}))
        } else {
            let least = json!({"window_start": windows.0, "first_time": first});
            (least, json!({"window_start": windows.1, "last_time": last}))
        };
        let mut tags = json!({
            "sourceRows": self.source_rows.to_string(),
            "firstTime": first.to_string(),
            "lastTime": last.to_string(),
            "firstWindow": windows.0.to_string(),
            "lastWindow": windows.1.to_string(),
        });
        if let Some((first, last)) = self.places {
            tags["firstSeq"] = first.raw().to_string().into();
            tags["lastSeq"] = last.raw().to_string().into();
        }
        let stats = json!({"numRecords": self.rows, "minValues": least, "maxValues": most});
        json!({"add": {
            "path": self.name,
            "partitionValues": {},
            "size": self.bytes,
            "modificationTime": now_ms,
            "dataChange": data_change,
            "stats": stats.to_string(),
            "tags": tags,
        }})
    }

    /// The file that an action adds.
    pub(super) fn parse(add: &Value) -> Result<Self, String> {
        let name = add["path"].as_str().ok_or("an added file has no path")?.to_owned();
        let stats = add["stats"].as_str().unwrap_or("{}");
        let stats: Value = serde_json::from_str(stats).map_err(|error| error.to_string())?;
        let tag = |tag: &str| -> Result<i64, String> {
            let value = add["tags"][tag].as_str().and_then(|text| text.parse().ok());
            value.ok_or_else(|| format!("file {name} has no tag {tag}"))
        };
        let time = |name: &str| tag(name).map(TimeNs::new);
        // A version that kept no places wrote none.
        let seq = |name: &str| tag(name).ok().map(|raw| Seq::from_raw(raw.cast_unsigned()));
        Ok(Self {
            bytes: add["size"].as_u64().ok_or("an added file has no size")?,
            rows: stats["numRecords"].as_u64().ok_or("an added file has no numRecords")?,
            source_rows: tag("sourceRows")?.cast_unsigned(),
            first_time: time("firstTime")?,
            last_time: time("lastTime")?,
            first_window: time("firstWindow")?,
            last_window: time("lastWindow")?,
            places: seq("firstSeq").zip(seq("lastSeq")),
            name,
        })
    }
}
