//! Under which labels things are counted, and which labels are left behind.

use std::collections::BTreeSet;
use std::path::Path;

use ehr_courier::app;
use ehr_courier::config::{Environment, Target};
use ehr_courier::pipeline::watch::{Labels, NAMES_MAX, OTHER, Shown};

use crate::composed;

#[test]
fn a_broker_beyond_the_limit_of_labels_counts_under_the_common_one() {
    let text = "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n\
                [connections.mercy]\nbase_url = \"https://ehr.example.com/\"\n\
                [[connections.mercy.feeds]]\nrecord = \"Patient\"\n\
                [destinations.bus]\ntype = \"amqp\"\nurl = \"env:BROKER\"\nexchange = \"ehr\"\n\
                routing_key = \"{connection}\"\n";
    let broker = ("BROKER".to_owned(), "amqps://u:p@broker.example.com".to_owned());
    let environment = Environment::from_iter([broker]);
    let config = composed::config(Path::new("courier.toml"), text, &environment);
    let entry = config.destinations.values().next().unwrap();
    let Target::Amqp(target) = &entry.target else {
        panic!("it is a broker")
    };
    let labels = Labels::default();
    assert_eq!(&*app::broker_settings(entry, target, &labels).label, "bus");
    let labels = Labels::default();
    for number in 0..NAMES_MAX {
        let name = format!("hook-{number}");
        assert_eq!(&*labels.of(&name), name);
    }
    assert_eq!(&*app::broker_settings(entry, target, &labels).label, OTHER);
}

#[test]
fn what_is_shown_no_longer_is_told_once() {
    let shown = Shown::default();
    assert_eq!(shown.replace(BTreeSet::from(["a", "b"])), [""; 0]);
    assert_eq!(shown.replace(BTreeSet::from(["b", "c"])), ["a"]);
    assert_eq!(shown.replace(BTreeSet::from(["c"])), ["b"]);
    assert_eq!(shown.replace(BTreeSet::from(["a"])), ["c"]);
}
