//! The types of reports that X-ARF 4 knows, and what their schemas ask for.
//!
//! Of the core and of `infrastructure/botnet`, `vulnerability/open_service`,
//! `connection/login_attack` and `content/phishing` all fields are here; of the others those that
//! must be there. What is inside of a field that is an object is not looked at.

use super::kind::Kind;

/// Fields by name, with what each must be.
type Rules = &'static [(&'static str, Kind)];

/// A category of reports.
#[derive(Debug, PartialEq, Eq)]
pub struct Category {
    /// Its name.
    pub name: &'static str,
    /// Its types.
    pub types: &'static [Type],
    /// The fields that all of its types have.
    rules: Rules,
}

/// A type of reports, within its category.
#[derive(Debug, PartialEq, Eq)]
pub struct Type {
    /// Its name.
    pub name: &'static str,
    /// The fields that must be there, those of the core aside.
    required: &'static [&'static str],
    /// The fields that it has beside those of its category.
    rules: Rules,
    /// Whether there must be a source port where the source is an IP address.
    pub needs_source_port: bool,
}

/// The fields of the core that must be there and that an event gives.
const REQUIRED: [&str; 2] = ["timestamp", "source_identifier"];

/// The fields of the core that the generator writes.
pub const WRITTEN: [&str; 7] =
    ["xarf_version", "report_id", "reporter", "sender", "category", "type", "evidence"];

const TEXTS: Kind = Kind::Each(&Kind::TEXT, usize::MAX);

const CORE: Rules = &[
    ("timestamp", Kind::Time),
    ("source_identifier", Kind::TEXT),
    ("source_port", Kind::PORT),
    ("evidence_source", Kind::TEXT),
    ("tags", Kind::Each(&Kind::Tag, 20)),
    ("confidence", Kind::Number(0, 1)),
    ("description", Kind::Text(1000)),
    ("legacy_version", Kind::OneOf(&["3"])),
];

/// A type of which only the fields that must be there are known.
const fn plain(name: &'static str, required: &'static [&'static str]) -> Type {
    Type { name, required, rules: &[], needs_source_port: false }
}

/// All categories, with all of their types.
pub const CATEGORIES: &[Category] = &[
    Category {
        name: "messaging",
        types: &[
            plain("spam", &["protocol"]),
            plain("bulk_messaging", &["protocol", "recipient_count"]),
        ],
        rules: &[],
    },
    Category {
        name: "content",
        types: &[
            Type {
                name: "phishing",
                required: &["url"],
                rules: &[
                    ("credential_fields", TEXTS),
                    ("phishing_kit", Kind::TEXT),
                    ("redirect_chain", Kind::Each(&Kind::Uri, usize::MAX)),
                    ("submission_url", Kind::Uri),
                    ("cloned_site", Kind::Uri),
                    (
                        "detection_evasion",
                        Kind::Each(
                            &Kind::OneOf(&[
                                "geo_blocking",
                                "user_agent_filtering",
                                "referrer_checking",
                                "captcha",
                                "time_based_display",
                                "ip_blacklisting",
                                "obfuscation",
                                "other",
                            ]),
                            usize::MAX,
                        ),
                    ),
                    (
                        "lure_type",
                        Kind::OneOf(&[
                            "account_suspension",
                            "security_alert",
                            "payment_issue",
                            "prize_notification",
                            "document_share",
                            "password_reset",
                            "shipping_notification",
                            "tax_refund",
                            "other",
                        ]),
                    ),
                ],
                needs_source_port: false,
            },
            plain("malware", &["url"]),
            plain("fraud", &["url", "fraud_type"]),
            plain("csam", &["url", "classification", "detection_method"]),
            plain("csem", &["url", "detection_method", "exploitation_type"]),
            plain("exposed_data", &["url", "data_types", "exposure_method"]),
            plain("brand_infringement", &["url", "infringement_type", "legitimate_site"]),
            plain(
                "suspicious_registration",
                &["url", "registration_date", "suspicious_indicators"],
            ),
            plain("remote_compromise", &["url", "compromise_type"]),
        ],
        rules: &[
            ("url", Kind::Uri),
            ("domain", Kind::Host),
            ("registrar", Kind::TEXT),
            ("nameservers", TEXTS),
            ("screenshot_url", Kind::Uri),
            ("verified_at", Kind::Time),
            (
                "verification_method",
                Kind::OneOf(&[
                    "manual",
                    "automated_crawler",
                    "user_report",
                    "honeypot",
                    "threat_intelligence",
                ]),
            ),
            (
                "attack_vector",
                Kind::OneOf(&[
                    "phishing",
                    "malware",
                    "fraud",
                    "brand_infringement",
                    "copyright_infringement",
                    "data_leak",
                    "remote_compromise",
                    "suspicious_registration",
                ]),
            ),
            ("target_brand", Kind::TEXT),
            ("hosting_provider", Kind::TEXT),
            ("asn", Kind::ASN),
            ("country_code", Kind::Country),
        ],
    },
    Category {
        name: "copyright",
        types: &[
            plain("copyright", &["infringing_url"]),
            plain("cyberlocker", &["infringing_url", "hosting_service"]),
            plain("link_site", &["infringing_url", "site_name"]),
            plain("p2p", &["p2p_protocol", "swarm_info"]),
            plain("usenet", &["newsgroup", "message_info"]),
            plain("ugc_platform", &["infringing_url", "platform_name"]),
        ],
        rules: &[],
    },
    Category {
        name: "connection",
        types: &[
            Type {
                name: "login_attack",
                required: &["protocol", "first_seen"],
                rules: &[("protocol", Kind::OneOf(&["tcp", "udp", "icmp", "sctp"]))],
                needs_source_port: true,
            },
            Type { needs_source_port: true, ..plain("port_scan", &["protocol", "first_seen"]) },
            Type { needs_source_port: true, ..plain("ddos", &["protocol", "first_seen"]) },
            plain("infected_host", &["protocol", "first_seen", "bot_type"]),
            plain("reconnaissance", &["protocol", "first_seen", "probed_resources"]),
            plain("scraping", &["protocol", "first_seen", "total_requests"]),
            plain("sql_injection", &["protocol", "first_seen"]),
            plain("vulnerability_scan", &["protocol", "first_seen", "scan_type"]),
        ],
        rules: &[
            ("destination_ip", Kind::Address),
            ("destination_port", Kind::PORT),
            ("first_seen", Kind::Time),
            ("last_seen", Kind::Time),
        ],
    },
    Category {
        name: "vulnerability",
        types: &[
            plain("open_service", &["service"]),
            plain("cve", &["service", "cve_id", "service_port"]),
            plain("misconfiguration", &["service"]),
        ],
        rules: &[("service", Kind::TEXT), ("service_port", Kind::PORT)],
    },
    Category {
        name: "infrastructure",
        types: &[
            Type {
                name: "botnet",
                required: &["compromise_evidence"],
                rules: &[
                    ("compromise_evidence", Kind::TEXT),
                    ("malware_family", Kind::Text(200)),
                    ("c2_server", Kind::TEXT),
                    (
                        "c2_protocol",
                        Kind::OneOf(&[
                            "http", "https", "tcp", "udp", "dns", "irc", "p2p", "custom",
                        ]),
                    ),
                    (
                        "bot_capabilities",
                        Kind::Each(
                            &Kind::OneOf(&[
                                "ddos",
                                "spam",
                                "proxy",
                                "keylogger",
                                "file_download",
                                "remote_shell",
                                "cryptocurrency_mining",
                                "data_theft",
                            ]),
                            usize::MAX,
                        ),
                    ),
                    ("first_seen", Kind::Time),
                    ("last_seen", Kind::Time),
                    (
                        "infection_vector",
                        Kind::OneOf(&[
                            "network_worm",
                            "email_attachment",
                            "drive_by_download",
                            "exploit_kit",
                            "social_engineering",
                            "malicious_link",
                            "usb_propagation",
                            "brute_force",
                        ]),
                    ),
                ],
                needs_source_port: false,
            },
            plain("compromised_server", &["compromise_method"]),
        ],
        rules: &[],
    },
    Category {
        name: "reputation",
        types: &[
            plain("blocklist", &["threat_type"]),
            plain("threat_intelligence", &["threat_type"]),
        ],
        rules: &[],
    },
];

impl Category {
    /// What a field must be, in a report of this category and `report_type`.
    pub fn kind(&self, report_type: &Type, field: &str) -> Kind {
        let mut rules = report_type.rules.iter().chain(self.rules).chain(CORE);
        rules.find(|(name, _)| *name == field).map_or(Kind::Any, |(_, kind)| *kind)
    }
}

impl Type {
    /// The fields that must be there and that an event gives.
    pub fn required(&self) -> impl Iterator<Item = &'static str> {
        REQUIRED.into_iter().chain(self.required.iter().copied())
    }
}
