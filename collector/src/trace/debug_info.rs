//! What debug information (DWARF 2 to 5) says of one function.
//!
//! Only the unit that the function is in is looked into. It belongs to others and may be damaged, so
//! whatever makes no sense is a type that is not read.

use std::fs::File;

use gimli::{
    AttributeValue, DebugInfoOffset, DebuggingInformationEntry, DwAt, DwTag, Dwarf, EndianSlice,
    LittleEndian, Section as _, Unit, UnitOffset, constants as dw,
};
use object::read::ReadCache;
use object::{CompressionFormat, Object, ObjectSection};

use super::signature::{Member, Record, Signature, Type, TypeRef, Types};

/// Most bytes of debug information that are read of a file.
const DEBUG_BYTES_MAX: u64 = 256 << 20;
/// Most names for one type, and most descriptions that stand for one function.
const CHAIN_MAX: usize = 16;
/// Most members of a record, and most parameters of a function.
const MEMBERS_MAX: usize = 1024;

type Elf<'a> = object::File<'a, &'a ReadCache<File>>;
type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Entry<'a> = DebuggingInformationEntry<Slice<'a>>;

/// The unit that describes a function.
pub(crate) struct DebugInfo<'a> {
    dwarf: Dwarf<Slice<'a>>,
    unit: Unit<Slice<'a>>,
}

/// Why nothing is known of a function's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The file has no debug information.
    Absent,
    /// It is compressed.
    Compressed,
    /// There is too much of it.
    TooLarge,
    /// It does not describe the function, or is damaged.
    Undescribed,
}

impl Unknown {
    /// For messages.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Absent => "the file has no debug information",
            Self::Compressed => "the file's debug information is compressed",
            Self::TooLarge => "the file has more than 256 MiB of debug information",
            Self::Undescribed => "the file's debug information does not describe it",
        }
    }
}

impl<'a> DebugInfo<'a> {
    /// What is known of the function at `address` of the file.
    pub(crate) fn of(elf: &Elf<'a>, address: u64) -> Result<(Self, Signature), Unknown> {
        let dwarf = load(elf)?;
        let found = Self::find(dwarf, address).ok().flatten();
        let (info, offset) = found.ok_or(Unknown::Undescribed)?;
        let signature = info.signature(offset).ok_or(Unknown::Undescribed)?;
        Ok((info, signature))
    }

    fn find(
        dwarf: Dwarf<Slice<'a>>,
        address: u64,
    ) -> gimli::Result<Option<(Self, UnitOffset<usize>)>> {
        let mut headers = dwarf.units();
        while let Some(header) = headers.next()? {
            let unit = dwarf.unit(header)?;
            let mut ranges = dwarf.unit_ranges(&unit)?;
            let mut is_within = false;
            while let Some(range) = ranges.next()? {
                is_within |= (range.begin..range.end).contains(&address);
            }
            if !is_within {
                continue;
            }
            let mut function = None;
            let mut entries = unit.entries();
            while let Some(entry) = entries.next_dfs()? {
                if entry.tag() == dw::DW_TAG_subprogram
                    && let Some(value) = entry.attr_value(dw::DW_AT_low_pc)
                    && dwarf.attr_address(&unit, value)? == Some(address)
                {
                    function = Some(entry.offset());
                    break;
                }
            }
            if let Some(function) = function {
                return Ok(Some((Self { dwarf, unit }, function)));
            }
        }
        Ok(None)
    }

    fn signature(&self, offset: UnitOffset<usize>) -> Option<Signature> {
        let own = self.unit.entry(offset).ok()?;
        // A function that is also inlined is described apart from its code.
        let described = self.referred(&own, dw::DW_AT_abstract_origin).unwrap_or(own);
        let mut parameters = Vec::new();
        for parameter in self.children(described.offset(), &[dw::DW_TAG_formal_parameter]) {
            if Self::is_result(&parameter) {
                // What Go gives back.
                continue;
            }
            let name = self.text(&parameter, dw::DW_AT_name).unwrap_or_default();
            parameters.push((name, self.type_of(&parameter)?));
        }
        let mut returned = self.type_of(&described);
        if returned.is_none()
            && let Some(declared) = self.referred(&described, dw::DW_AT_specification)
        {
            returned = self.type_of(&declared);
        }
        Some(Signature { parameters, returned, large_by_reference: self.is_rust() })
    }

    fn is_result(entry: &Entry<'a>) -> bool {
        matches!(entry.attr_value(dw::DW_AT_variable_parameter), Some(AttributeValue::Flag(true)))
    }

    fn is_rust(&self) -> bool {
        let mut entries = self.unit.entries();
        let Ok(Some(root)) = entries.next_dfs() else { return false };
        matches!(
            root.attr_value(dw::DW_AT_language),
            Some(AttributeValue::Language(dw::DW_LANG_Rust))
        )
    }

    /// The entries of these kinds right below the one at `offset`.
    fn children(&self, offset: UnitOffset<usize>, tags: &[DwTag]) -> Vec<Entry<'a>> {
        let mut found = Vec::new();
        let Ok(mut entries) = self.unit.entries_at_offset(offset) else { return found };
        let Ok(Some(_itself)) = entries.next_dfs() else { return found };
        while let Ok(Some(entry)) = entries.next_dfs() {
            if entry.depth() <= 0 || found.len() == MEMBERS_MAX {
                break;
            }
            if entry.depth() == 1 && tags.contains(&entry.tag()) {
                found.push(entry.clone());
            }
        }
        found
    }

    /// Where a type's description is, by its place in all debug information.
    fn type_of(&self, entry: &Entry<'a>) -> Option<TypeRef> {
        let offset = self.reference(entry, dw::DW_AT_type)?;
        let within = offset.to_debug_info_offset(&self.unit.header)?;
        Some(TypeRef(within.0))
    }

    fn reference(&self, entry: &Entry<'a>, name: DwAt) -> Option<UnitOffset<usize>> {
        match entry.attr_value(name)? {
            AttributeValue::UnitRef(offset) => Some(offset),
            AttributeValue::DebugInfoRef(offset) => offset.to_unit_offset(&self.unit.header),
            _ => None,
        }
    }

    fn referred(&self, entry: &Entry<'a>, name: DwAt) -> Option<Entry<'a>> {
        self.unit.entry(self.reference(entry, name)?).ok()
    }

    fn text(&self, entry: &Entry<'a>, name: DwAt) -> Option<String> {
        let value = entry.attr_value(name)?;
        let text = self.dwarf.attr_string(&self.unit, value).ok()?;
        Some(text.to_string_lossy().into_owned())
    }

    fn number(entry: &Entry<'a>, name: DwAt) -> Option<u64> {
        entry.attr_value(name)?.udata_value()
    }

    fn record(&self, entry: &Entry<'a>) -> Type {
        let mut members = Vec::new();
        for member in self.children(entry.offset(), &[dw::DW_TAG_member, dw::DW_TAG_inheritance]) {
            let is_static = member.has_attr(dw::DW_AT_external);
            if is_static || member.has_attr(dw::DW_AT_bit_size) {
                continue;
            }
            let Some(of) = self.type_of(&member) else { continue };
            let name = if member.tag() == dw::DW_TAG_inheritance {
                String::new()
            } else {
                self.text(&member, dw::DW_AT_name).unwrap_or_default()
            };
            let offset = Self::number(&member, dw::DW_AT_data_member_location).unwrap_or(0);
            members.push(Member { name, offset, of });
        }
        let by_reference = matches!(
            entry.attr_value(dw::DW_AT_calling_convention),
            Some(AttributeValue::CallingConvention(dw::DW_CC_pass_by_reference))
        );
        let name = self.text(entry, dw::DW_AT_name).unwrap_or_default();
        let bytes = Self::number(entry, dw::DW_AT_byte_size).unwrap_or(0);
        Type::Record(Record { name, bytes, members, by_reference })
    }

    fn base(&self, entry: &Entry<'a>) -> Type {
        let name = self.text(entry, dw::DW_AT_name).unwrap_or_default();
        let size =
            Self::number(entry, dw::DW_AT_byte_size).and_then(|size| u8::try_from(size).ok());
        let (Some(bytes @ 1..=16), Some(AttributeValue::Encoding(encoding))) =
            (size, entry.attr_value(dw::DW_AT_encoding))
        else {
            return Type::Other(name);
        };
        match encoding {
            dw::DW_ATE_boolean => Type::Boolean { bytes },
            dw::DW_ATE_float => Type::Float { bytes },
            _ if name == "char" && bytes == 1 => Type::Character,
            dw::DW_ATE_signed | dw::DW_ATE_signed_char => Type::Integer { bytes, signed: true },
            dw::DW_ATE_unsigned | dw::DW_ATE_unsigned_char | dw::DW_ATE_UTF => {
                Type::Integer { bytes, signed: false }
            }
            _ => Type::Other(name),
        }
    }

    fn array(&self, entry: &Entry<'a>) -> Type {
        let ranges = self.children(entry.offset(), &[dw::DW_TAG_subrange_type]);
        let count = ranges.first().and_then(|range| {
            Self::number(range, dw::DW_AT_count)
                .or_else(|| Self::number(range, dw::DW_AT_upper_bound).map(|last| last + 1))
        });
        match (self.type_of(entry), ranges.len()) {
            (Some(of), 1) => Type::Array { of, count: count.unwrap_or(0) },
            _ => Type::Other("an array of arrays".to_owned()),
        }
    }
}

impl Types for DebugInfo<'_> {
    fn resolve(&self, TypeRef(offset): TypeRef) -> Type {
        let mut next = DebugInfoOffset(offset).to_unit_offset(&self.unit.header);
        for _ in 0..CHAIN_MAX {
            let Some(entry) = next.and_then(|offset| self.unit.entry(offset).ok()) else { break };
            match entry.tag() {
                dw::DW_TAG_base_type => return self.base(&entry),
                dw::DW_TAG_pointer_type
                | dw::DW_TAG_reference_type
                | dw::DW_TAG_rvalue_reference_type => return Type::Pointer(self.type_of(&entry)),
                dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type => {
                    return self.record(&entry);
                }
                dw::DW_TAG_array_type => return self.array(&entry),
                dw::DW_TAG_enumeration_type => {
                    let size = Self::number(&entry, dw::DW_AT_byte_size).unwrap_or(4);
                    let bytes = u8::try_from(size).unwrap_or(4);
                    return Type::Integer { bytes, signed: bytes == 4 };
                }
                dw::DW_TAG_typedef
                | dw::DW_TAG_const_type
                | dw::DW_TAG_volatile_type
                | dw::DW_TAG_restrict_type
                | dw::DW_TAG_atomic_type => next = self.reference(&entry, dw::DW_AT_type),
                other => return Type::Other(other.static_string().unwrap_or_default().to_owned()),
            }
        }
        Type::Other("void".to_owned())
    }
}

fn load<'a>(elf: &Elf<'a>) -> Result<Dwarf<Slice<'a>>, Unknown> {
    let mut left = DEBUG_BYTES_MAX;
    let mut is_compressed = false;
    let mut is_too_large = false;
    let loaded = Dwarf::load(|id| -> Result<Slice<'a>, Unknown> {
        let empty = EndianSlice::new(&[], LittleEndian);
        let Some(section) = elf.section_by_name(id.name()) else { return Ok(empty) };
        let format = section.compressed_file_range().map(|range| range.format);
        if format != Ok(CompressionFormat::None) {
            is_compressed = true;
            return Ok(empty);
        }
        let Some(rest) = left.checked_sub(section.size()) else {
            is_too_large = true;
            return Ok(empty);
        };
        left = rest;
        // A section that cannot be read is as one that is not there.
        Ok(EndianSlice::new(section.data().unwrap_or_default(), LittleEndian))
    })?;
    if is_compressed {
        return Err(Unknown::Compressed);
    }
    if is_too_large {
        return Err(Unknown::TooLarge);
    }
    if loaded.debug_info.reader().is_empty() {
        return Err(Unknown::Absent);
    }
    Ok(loaded)
}
