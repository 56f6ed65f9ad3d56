//! One dictionary for each column of a table whose texts come again and again, shared by its chunks.
//!
//! Texts are numbered as they first come and keep their number, so the dictionary of a later moment
//! begins with that of an earlier one, and equal numbers are equal texts in all chunks of a table:
//! a reader groups and compares integers. Chunks get their numbers when they are merged, off the
//! path of an append. A dictionary that is full starts again as the next *generation*; numbers of
//! an earlier one then mean nothing, and their chunks show plain text only. Addresses and paths may
//! be few or all different: a column whose texts do not come again is given up.
//!
//! With the numbers of its services a chunk keeps its rows [by service](ByService).

mod numbering;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use arrow::buffer::ScalarBuffer;

pub(crate) use numbering::Numbering;

use crate::hot_by_service::ByService;

/// The dictionaries of a table at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dictionaries {
    columns: Arc<[Dictionary]>,
}

#[derive(Clone, Debug)]
struct Dictionary {
    column: usize,
    is_service: bool,
    generation: u64,
    values: ArrayRef,
}

/// A chunk's texts as numbers, for the columns that have few different ones.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    columns: Vec<ColumnKeys>,
    by_service: Option<ByService>,
}

#[derive(Debug)]
struct ColumnKeys {
    column: usize,
    generation: u64,
    numbers: Numbers,
    /// The different numbers, where there are few.
    distinct: Option<Box<[i32]>>,
}

/// Which of a chunk's rows hold a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    All,
    /// Those at these places of the chunk's rows by service.
    Some(Range<usize>),
}

#[derive(Debug)]
enum Numbers {
    /// Every row has this one.
    All(i32),
    Each(ScalarBuffer<i32>),
}

impl Keys {
    /// Memory that they take.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = |column: &ColumnKeys| {
            let numbers = match &column.numbers {
                Numbers::All(_) => 0,
                Numbers::Each(numbers) => numbers.inner().capacity(),
            };
            let distinct = column.distinct.as_deref().map_or(0, size_of_val);
            size_of::<ColumnKeys>() + numbers + distinct
        };
        let by_service = self.by_service.as_ref().map_or(0, ByService::bytes);
        (self.columns.iter().map(bytes).sum::<usize>() + by_service) as u64
    }

    /// The chunk's rows by service, where it has several.
    pub(crate) fn by_service(&self) -> Option<&ByService> {
        self.by_service.as_ref()
    }
}

impl Dictionaries {
    /// The numbers of a chunk's rows, and the texts that they stand for.
    pub(crate) fn column(
        &self,
        keys: &Keys,
        column: usize,
        rows: usize,
    ) -> Option<(Int32Array, ArrayRef)> {
        let (keys, dictionary) = self.matching(keys, column)?;
        let numbers = match &keys.numbers {
            Numbers::All(number) => vec![*number; rows].into(),
            Numbers::Each(numbers) => numbers.clone(),
        };
        Some((Int32Array::new(numbers, None), Arc::clone(&dictionary.values)))
    }

    /// Which of a chunk's rows hold `text` in a column; nothing where that is not known.
    pub(crate) fn holding(&self, keys: &Keys, column: usize, text: &str) -> Option<Holding> {
        let (of_column, dictionary) = self.matching(keys, column)?;
        let distinct = of_column.distinct.as_deref()?;
        match dictionary.rank_of(of_column, text) {
            None => Some(Holding::Some(0..0)),
            Some(_) if distinct.len() == 1 => Some(Holding::All),
            Some(_) if !dictionary.is_service => None,
            Some(rank) => Some(Holding::Some(keys.by_service.as_ref()?.of_rank(rank))),
        }
    }

    /// The numbers of the texts of a column at `range` of a chunk's rows by service, and the texts.
    pub(crate) fn column_by_service(
        &self,
        keys: &Keys,
        column: usize,
        range: Range<usize>,
    ) -> Option<(Int32Array, ArrayRef)> {
        let (of_column, dictionary) = self.matching(keys, column)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "numbers of texts were made of 32 bits"
        )]
        let numbers = match &of_column.numbers {
            Numbers::All(number) => vec![*number; range.len()],
            Numbers::Each(_) => {
                keys.by_service.as_ref()?.column(column)?.range(range, |number| number as i32)
            }
        };
        Some((Int32Array::new(numbers.into(), None), Arc::clone(&dictionary.values)))
    }

    /// Whether the texts of a column come again and again, as far as it is known.
    pub(crate) fn has(&self, column: usize) -> bool {
        let of_column = |dictionary: &&Dictionary| dictionary.column == column;
        self.columns.iter().find(of_column).is_some_and(|dictionary| !dictionary.values.is_empty())
    }

    fn matching<'a>(
        &'a self,
        keys: &'a Keys,
        column: usize,
    ) -> Option<(&'a ColumnKeys, &'a Dictionary)> {
        let keys = keys.columns.iter().find(|keys| keys.column == column)?;
        let dictionary = self.columns.iter().find(|dictionary| dictionary.column == column)?;
        (keys.generation == dictionary.generation).then_some((keys, dictionary))
    }
}

impl Dictionary {
    /// Which of a chunk's different texts is `text`.
    fn rank_of(&self, keys: &ColumnKeys, text: &str) -> Option<usize> {
        let values = self.values.as_string::<i32>();
        let is_text =
            |&number: &i32| usize::try_from(number).is_ok_and(|n| values.value(n) == text);
        keys.distinct.as_ref()?.iter().position(is_text)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};

    use super::numbering::{REPEATS_MIN, VALUES_MAX};
    use super::*;

    fn rows(services: impl Iterator<Item = String>) -> RecordBatch {
        let mut builder = HttpEvents::new(8);
        for service in services {
            builder.push(&HttpEvent { service: &service, pod: "one", ..HttpEvent::default() });
        }
        builder.finish()
    }

    fn column(name: &str) -> usize {
        HTTP_EVENTS.columns.iter().position(|column| column.name == name).unwrap()
    }

    fn shown(dictionaries: &Dictionaries, keys: &Keys, name: &str, rows: usize) -> Vec<String> {
        let (numbers, values) = dictionaries.column(keys, column(name), rows).unwrap();
        let values = values.as_string::<i32>();
        let text = |number: &i32| values.value(usize::try_from(*number).unwrap()).to_owned();
        numbers.values().iter().take(rows).map(text).collect()
    }

    #[test]
    fn numbers_of_all_chunks_mean_the_same_in_every_later_dictionary() {
        let names = ["shop", "cart", "shop", "a service with a long name, 1", "pay"];
        let mut numbering = Numbering::new(&HTTP_EVENTS);
        let first = rows(names[..3].iter().map(ToString::to_string));
        let first = numbering.keys_of(&first);
        let early = numbering.dictionaries();
        let second = numbering.keys_of(&rows(names.iter().map(ToString::to_string)));
        let late = numbering.dictionaries();
        assert_eq!(shown(&early, &first, "service", 3), names[..3]);
        assert_eq!(shown(&late, &first, "service", 3), names[..3]);
        assert_eq!(shown(&late, &second, "service", 5), names);
        let (a, _) = early.column(&first, column("service"), 3).unwrap();
        let (b, _) = late.column(&second, column("service"), 5).unwrap();
        assert_eq!(a, b.slice(0, 3));
        let holding = |keys: &Keys, text| match late.holding(keys, column("service"), text)? {
            Holding::All => None,
            Holding::Some(range) => Some(keys.by_service().unwrap().offsets(range).to_vec()),
        };
        assert_eq!(holding(&second, "shop"), Some(vec![0, 2]));
        assert_eq!(holding(&second, "pay"), Some(vec![4]));
        assert_eq!(holding(&first, "pay"), Some(vec![]), "it came later");
        assert_eq!(late.holding(&second, column("pod"), "one"), Some(Holding::All));
        assert_eq!(late.holding(&second, column("pod"), "two"), Some(Holding::Some(0..0)));
        assert_eq!(late.holding(&second, column("req_body"), ""), None, "nothing is known of it");
        assert!(first.columns.iter().all(|keys| {
            keys.column == column("service") || matches!(keys.numbers, Numbers::All(0))
        }));
    }

    #[test]
    fn addresses_and_paths_are_numbered_as_long_as_they_come_again() {
        let chunk = |addresses: Range<usize>, paths: Range<usize>, rows| {
            let mut builder = HttpEvents::new(rows);
            for (address, path) in addresses.cycle().zip(paths.cycle()).take(rows) {
                let (address, path) = (format!("10.0.0.{address}"), format!("/user/{path}"));
                let names =
                    HttpEvent { remote_addr: &address, req_path: &path, ..HttpEvent::default() };
                builder.push(&names);
            }
            builder.finish()
        };
        let mut numbering = Numbering::new(&HTTP_EVENTS);
        let has = |numbering: &mut Numbering, name| numbering.dictionaries().has(column(name));
        numbering.keys_of(&chunk(0..9, 0..VALUES_MAX, VALUES_MAX));
        assert!(has(&mut numbering, "remote_addr") && has(&mut numbering, "req_path"));
        assert!(!has(&mut numbering, "req_body"), "it is not looked at");
        let keys = numbering.keys_of(&chunk(0..9, VALUES_MAX..2 * VALUES_MAX, VALUES_MAX));
        assert!(has(&mut numbering, "remote_addr") && !has(&mut numbering, "req_path"));
        assert_eq!(
            shown(&numbering.dictionaries(), &keys, "remote_addr", 2),
            ["10.0.0.0", "10.0.0.1"]
        );

        for _ in 0..REPEATS_MIN * 2 {
            numbering.keys_of(&chunk(0..VALUES_MAX / 2, 0..1, VALUES_MAX));
        }
        numbering.keys_of(&chunk(VALUES_MAX..2 * VALUES_MAX, 0..1, VALUES_MAX));
        assert!(has(&mut numbering, "remote_addr"), "other addresses begin a new dictionary");
    }

    #[test]
    fn a_full_dictionary_starts_again_and_a_column_of_one_off_texts_is_given_up() {
        let mut numbering = Numbering::new(&HTTP_EVENTS);
        let few = numbering.keys_of(&rows(["shop".to_owned()].into_iter()));
        let many = |from: usize, to: usize| rows((from..to).map(|n| format!("service {n}")));
        let half = VALUES_MAX / 2 + 1;
        numbering.keys_of(&many(0, half));
        let later = numbering.keys_of(&many(half, 2 * half));
        let dictionaries = numbering.dictionaries();
        assert!(dictionaries.column(&few, column("service"), 1).is_none());
        assert_eq!(
            dictionaries.holding(&few, column("service"), "pay"),
            None,
            "nor is it known where"
        );
        let texts = shown(&dictionaries, &later, "service", half);
        assert_eq!((texts.len(), texts[0].as_str()), (half, "service 8193"));
        assert_eq!(shown(&dictionaries, &few, "pod", 1), ["one"], "other columns stay");

        let hopeless = numbering.keys_of(&many(0, VALUES_MAX + 1));
        let dictionaries = numbering.dictionaries();
        assert!(dictionaries.column(&hopeless, column("service"), 1).is_none());
        assert!(dictionaries.column(&later, column("service"), 1).is_none());
        assert!(dictionaries.column(&hopeless, column("pod"), 1).is_some());
        assert!(numbering.bytes() < 1024, "its memory is given back");
    }
}
