//! The JSON text of the clinic's records, with the odd but legal things that real servers write.
//!
//! Decimals keep their digits (`1.10`, `1e2`), slashes may be escaped, letters may be escaped or not,
//! extensions stand at every level: whoever passes a record on must not touch any of it. All people
//! here are invented.

use jiff::{SignedDuration, Timestamp};

use super::clinic::{Item, Kind};

const FAMILY: [&str; 8] = [
    "Testmann",
    "O'Sandbox",
    "Müller-Probe",
    "Șample",
    "Çakmak",
    "山田",
    "d\\u2019Essai",
    "Løvstad",
];
const GIVEN: [&str; 8] = [
    "Zoë",
    "Jürgen",
    "太郎",
    "Ana\\u00efs",
    "Ruth",
    "Nguyễn",
    "Ada",
    "Ó Ciara",
];
const VALUES: [&str; 8] = [
    "1.10",
    "1e2",
    "7.0",
    "98.60",
    "-0.0",
    "1E+2",
    "120",
    "0.000000000000000010",
];
const CODES: [(&str, &str, &str); 4] = [
    ("8867-4", "Heart rate", "\\/min"),
    ("8310-5", "Body temperature", "Cel"),
    ("2339-0", "Glucose", "mg\\/dL"),
    ("718-7", "Hemoglobin", "g/dL"),
];

/// Returns a record's members, without `resourceType`, `id` and `meta`.
pub(super) fn members(item: &Item) -> String {
    match item.kind {
        Kind::Patient => patient(item),
        Kind::Practitioner => format!(r#""active":true,"name":[{}]"#, name(item)),
        Kind::Appointment => appointment(item),
        Kind::Encounter => encounter(item),
        Kind::Observation => observation(item),
        Kind::DiagnosticReport => report(item),
    }
}

fn patient(item: &Item) -> String {
    let link = item.link.as_ref().map_or_else(String::new, |(relation, other)| {
        format!(r#","link":[{{"other":{{"reference":"Patient/{other}"}},"type":"{relation}"}}]"#)
    });
    let gender = pick(&["female", "male", "other", "unknown"], item.draw / 7);
    format!(
        r#""identifier":[{{"system":"http:\/\/sandbox.example\/mrn","value":"MRN{draw:06}"}}],"active":{active},"name":[{name}],"telecom":[{{"system":"phone","value":"+1-555-01{phone:02}","rank":{rank}}}],"gender":"{gender}","birthDate":"{year}-0{month}-1{day}"{link},"extension":[{{"url":"http://sandbox.example/fhir/weight","valueDecimal":70.50}}]"#,
        draw = item.draw,
        active = item.status == "active",
        name = name(item),
        phone = (item.draw + item.revision) % 100,
        rank = item.revision,
        year = 1930 + item.draw % 90,
        month = 1 + item.draw % 9,
        day = item.draw % 9,
    )
}

fn appointment(item: &Item) -> String {
    let minutes = 15 * (1 + i64::from(item.draw % 4));
    let end = item
        .at
        .checked_add(SignedDuration::from_mins(minutes))
        .unwrap_or(item.at);
    format!(
        r#""status":"{status}","description":"Check\tup \u2013 r{revision}","start":"{start}","end":"{end}","minutesDuration":{minutes},"participant":[{{"actor":{{"reference":"Patient/{patient}"}},"status":"accepted"}},{{"actor":{{"reference":"Practitioner/dr-{practitioner:05}"}},"status":"tentative"}}]"#,
        status = item.status,
        revision = item.revision,
        start = seconds(item.at),
        end = seconds(end),
        patient = item.patient,
        practitioner = 1 + item.draw % 3,
    )
}

fn encounter(item: &Item) -> String {
    format!(
        r#""status":"{status}","class":{{"system":"http:\/\/terminology.hl7.org\/CodeSystem\/v3-ActCode","code":"AMB"}},"subject":{{"reference":"Patient/{patient}"}},"period":{{"start":"{start}"}},"length":{{"value":{revision}.50,"unit":"h"}}"#,
        status = item.status,
        patient = item.patient,
        start = seconds(item.at),
        revision = item.revision,
    )
}

fn observation(item: &Item) -> String {
    let (code, display, unit) = pick(&CODES, item.draw);
    format!(
        r#""status":"{status}","code":{{"coding":[{{"system":"http://loinc.org","code":"{code}","display":"{display}"}}],"text":"{display}"}},"subject":{{"reference":"Patient/{patient}"}},"effectiveDateTime":"{at}","valueQuantity":{{"value":{value},"unit":"{unit}","_unit":{{"extension":[{{"url":"urn:sandbox:device","valueInteger":{revision}}}]}}}}"#,
        status = item.status,
        patient = item.patient,
        at = seconds(item.at),
        value = pick(&VALUES, item.draw / 3),
        revision = item.revision,
    )
}

fn report(item: &Item) -> String {
    let (code, display, _) = pick(&CODES, item.draw);
    format!(
        r#""status":"{status}","code":{{"text":"{display}","coding":[{{"code":"{code}","system":"http://loinc.org"}}]}},"subject":{{"reference":"Patient\/{patient}"}},"issued":"{at}","conclusion":"Line one\nline {revision} \ud83e\uddea \"quoted\"""#,
        status = item.status,
        patient = item.patient,
        at = seconds(item.at),
        revision = item.revision,
    )
}

fn name(item: &Item) -> String {
    format!(
        r#"{{"family":"{}","given":["{}"]}}"#,
        pick(&FAMILY, item.draw),
        pick(&GIVEN, item.draw / 11)
    )
}

fn seconds(instant: Timestamp) -> String {
    format!("{instant:.0}")
}

fn pick<T: Copy + Default>(choices: &[T], draw: u32) -> T {
    let index = usize::try_from(draw).unwrap_or(0) % choices.len().max(1);
    choices.get(index).copied().unwrap_or_default()
}
