//! What a failure mode is: what the sandbox is told, in which strategies it can be met, and what must hold in each.

use super::scene::Scene;

/// One way of finding changes, as a feed is configured for it. A further strategy is a further line here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strategy {
    pub(crate) name: &'static str,
    /// The feed's keys beside `record`.
    pub(crate) feed: &'static str,
    /// What its source must be, for it to be the strategy of choice.
    pub(crate) dialect: &'static [&'static str],
    /// Whether each changed record is read by itself.
    pub(crate) reads: bool,
    /// Whether every version is seen; else it is the state at each poll.
    pub(crate) sees_every_version: bool,
    /// Whether it looks at the records that there are at the beginning, and at no others.
    pub(crate) by_list: bool,
}

pub(crate) const STRATEGIES: [Strategy; 5] = [
    Strategy {
        name: "history",
        feed: "detect = \"history\"",
        dialect: &[],
        reads: false,
        sees_every_version: true,
        by_list: false,
    },
    Strategy {
        name: "last-updated",
        feed: "detect = \"last-updated\"",
        dialect: &["no_history"],
        reads: false,
        sees_every_version: false,
        by_list: false,
    },
    Strategy {
        name: "last-updated, read",
        feed: "detect = \"last-updated\"\nfetch = \"read\"",
        dialect: &[],
        reads: true,
        sees_every_version: false,
        by_list: false,
    },
    Strategy {
        name: "window",
        feed: "detect = \"window\"\nwindow = { past = \"730d\", future = \"730d\" }",
        dialect: &["no_history", "no_last_updated"],
        reads: false,
        sees_every_version: false,
        by_list: false,
    },
    Strategy {
        name: "read",
        feed: "detect = \"read\"",
        dialect: &["no_history", "no_last_updated"],
        reads: false,
        sees_every_version: false,
        by_list: true,
    },
];

impl Strategy {
    /// Whether every poll lists all records, so that a disappearance is read about.
    pub(crate) fn lists(&self) -> bool {
        self.name == "window" || self.by_list
    }
}

/// How much of what the source holds must have arrived when all is quiet. Whatever it is, what an answer showed must
/// have arrived, and nothing else may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// What was shown, and no more: the rest cannot be found this way.
    Shown,
    /// And the state in which each record is.
    State,
    /// And every version and delete.
    EveryVersion,
}

impl Due {
    /// What a strategy owes where nothing stands in its way.
    pub(crate) fn of(strategy: &Strategy) -> Self {
        if strategy.sees_every_version {
            Self::EveryVersion
        } else if strategy.by_list {
            Self::Shown
        } else {
            Self::State
        }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Shown => "what was shown",
            Self::State => "current state",
            Self::EveryVersion => "every version",
        }
    }
}

/// When the faults strike. What kind of server it is holds from the first poll to the end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Struck {
    /// After a while without, and for a while.
    ForAWhile,
    /// From before the first poll to the end, as a clock that is off.
    Throughout,
}

/// What must hold while it lasts, beside what must have arrived after it.
pub(crate) type While = fn(&Scene) -> Result<(), String>;

/// One failure mode.
pub(crate) struct Mode {
    /// Its number in docs/sandbox.md; absent where it has none.
    pub(crate) number: Option<u32>,
    /// What must happen, as the test's name says it.
    pub(crate) name: &'static str,
    pub(crate) faults: &'static [&'static str],
    pub(crate) dialect: &'static [&'static str],
    pub(crate) struck: Struck,
    pub(crate) profile: &'static str,
    /// How much must have arrived; none where a strategy cannot meet it.
    pub(crate) due: fn(&Strategy) -> Option<Due>,
    /// Until this holds, it lasts; gives up after a while.
    pub(crate) lasts_until: fn(&Scene) -> bool,
    pub(crate) holds_meanwhile: While,
    /// Whether the source wants a token.
    pub(crate) tokens: bool,
    /// Kinds and reasons of which some must have arrived.
    pub(crate) heard: &'static [&'static str],
    /// Further keys of the connection.
    pub(crate) connection: &'static str,
}

impl Mode {
    /// A mode of some faults that strike for a while, which every strategy can meet and nobody may notice.
    pub(crate) const fn of(number: u32, name: &'static str, faults: &'static [&'static str]) -> Self {
        Self {
            number: Some(number),
            name,
            faults,
            dialect: &[],
            struck: Struck::ForAWhile,
            profile: "sandbox",
            due: |strategy| Some(Due::of(strategy)),
            lasts_until: |_| true,
            holds_meanwhile: |_| Ok(()),
            tokens: false,
            heard: &[],
            connection: "",
        }
    }

    /// A mode that is not among those of docs/sandbox.md.
    pub(crate) const fn without_number(name: &'static str, faults: &'static [&'static str]) -> Self {
        Self {
            number: None,
            ..Self::of(0, name, faults)
        }
    }

    pub(crate) const fn spoken(self, dialect: &'static [&'static str]) -> Self {
        Self { dialect, ..self }
    }

    pub(crate) const fn throughout(self) -> Self {
        Self {
            struck: Struck::Throughout,
            ..self
        }
    }

    pub(crate) const fn due(self, due: fn(&Strategy) -> Option<Due>) -> Self {
        Self { due, ..self }
    }

    pub(crate) const fn until(self, lasts_until: fn(&Scene) -> bool) -> Self {
        Self { lasts_until, ..self }
    }

    pub(crate) const fn meanwhile(self, holds_meanwhile: While) -> Self {
        Self {
            holds_meanwhile,
            ..self
        }
    }

    pub(crate) const fn by_tokens(self) -> Self {
        Self { tokens: true, ..self }
    }

    pub(crate) const fn heard(self, heard: &'static [&'static str]) -> Self {
        Self { heard, ..self }
    }

    pub(crate) const fn configured(self, connection: &'static str) -> Self {
        Self { connection, ..self }
    }

    /// Any server of which nothing is known.
    pub(crate) const fn of_a_stranger(self) -> Self {
        Self {
            profile: "generic",
            ..self
        }
    }

    /// The switches, as they are written on the command line.
    pub(crate) fn switches(&self) -> String {
        let faults = self.faults.iter().map(|it| format!("`--fault {it}`"));
        let dialect = self.dialect.iter().map(|it| format!("`--dialect {it}`"));
        let connection = self.connection.lines().map(|it| format!("`{it}`"));
        dialect
            .chain(faults)
            .chain(connection)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The names of its faults, as they are counted.
    pub(crate) fn fault_names(&self) -> impl Iterator<Item = &'static str> {
        self.faults
            .iter()
            .map(|it| it.split('=').next().unwrap_or_default())
    }
}
