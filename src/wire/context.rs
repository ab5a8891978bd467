//! An event's context: as it stands in a notification, and as it is stored.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use courier_sdk::{Context, Record};

/// The first byte of the stored form: lengths and bytes, so that every record comes back as it was.
const LENGTHS: u8 = 1;

/// The data of a notification whose record travels with its context: each record byte for byte.
#[must_use]
pub fn data(record: &Record, context: &Context) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + record.bytes().len() + context.bytes());
    out.put_slice(b"{\"record\":");
    out.put_slice(record.bytes());
    out.put_slice(b",\"included\":[");
    for (index, included) in context.included.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(included.bytes());
    }
    out.put_slice(b"],\"missing\":");
    // Cannot fail for texts; nothing missing would then be said.
    let missing = serde_json::to_vec(&context.missing).unwrap_or_else(|_| b"[]".to_vec());
    out.put_slice(&missing);
    out.put_u8(b'}');
    out.freeze()
}

/// Writes the stored form.
#[must_use]
pub fn encode(context: &Context) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + context.bytes());
    out.put_u8(LENGTHS);
    put_all(
        &mut out,
        context.included.iter().map(|record| record.bytes().as_ref()),
    );
    put_all(&mut out, context.missing.iter().map(String::as_bytes));
    out.freeze()
}

/// Reads the stored form; nothing where it is none.
#[must_use]
pub fn decode(mut bytes: Bytes) -> Option<Context> {
    if bytes.try_get_u8().ok()? != LENGTHS {
        return None;
    }
    let included = take_all(&mut bytes)?.into_iter().map(Record::new).collect();
    let missing = take_all(&mut bytes)?
        .into_iter()
        .map(|text| String::from_utf8(text.to_vec()).ok())
        .collect::<Option<Vec<String>>>()?;
    bytes.is_empty().then_some(Context { included, missing })
}

fn put_all<'a>(out: &mut BytesMut, parts: impl ExactSizeIterator<Item = &'a [u8]>) {
    out.put_u64(parts.len() as u64);
    for part in parts {
        out.put_u64(part.len() as u64);
        out.put_slice(part);
    }
}

fn take_all(bytes: &mut Bytes) -> Option<Vec<Bytes>> {
    let count = bytes.try_get_u64().ok()?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(bytes.try_get_u64().ok()?).ok()?;
        if length > bytes.len() {
            return None;
        }
        parts.push(bytes.split_to(length));
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let record = |text: &'static str| Record::new(Bytes::from_static(text.as_bytes()));
        Context {
            included: vec![record("{\"v\":1.10}\n"), record("{ }")],
            missing: vec!["Patient/\"7\"".to_owned()],
        }
    }

    #[test]
    fn what_is_stored_comes_back_byte_for_byte() {
        for context in [context(), Context::default()] {
            assert_eq!(decode(encode(&context)), Some(context));
        }
    }

    #[test]
    fn what_was_cut_added_to_or_written_otherwise_is_no_context() {
        let whole = encode(&context());
        for length in 0..whole.len() {
            assert_eq!(decode(whole.slice(..length)), None, "{length}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(decode(Bytes::from(longer)), None);
        assert_eq!(decode(Bytes::from_static(b"\x02\0\0\0\0")), None);
        assert_eq!(
            decode(Bytes::from_static(&[1, 255, 255, 255, 255, 255, 255, 255, 255])),
            None
        );
    }

    #[test]
    fn records_stand_in_the_data_as_they_are() {
        let record = Record::new(Bytes::from_static(b"{\"n\":3e1}"));
        let data = data(&record, &context());
        assert_eq!(
            std::str::from_utf8(&data).unwrap(),
            "{\"record\":{\"n\":3e1},\"included\":[{\"v\":1.10}\n,{ }],\"missing\":[\"Patient/\\\"7\\\"\"]}"
        );
    }
}
