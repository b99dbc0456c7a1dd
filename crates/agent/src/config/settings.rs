//! The resolved settings: every parameter of the protocol that this agent reads, with its default and its unit.
//!
//! Names and defaults are those of ironic-python-agent's `config.py`. A file from virtual media (`api_url = …`) wins over
//! the kernel command line (`ipa-api-url=…`). A value that cannot be used is reported in [`Settings::problems`] and the
//! default is used: a node that does not check in at all is worse than one that checks in with a default.

use super::Words;
use crate::state::Token;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use wire::agent::ImageInfo;

/// What the agent was told, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URLs of the driver's API, tried in this order; empty for a standalone agent.
    pub api_urls: Vec<String>,
    /// A token that was given before the boot.
    pub agent_token: Option<Token>,
    /// Echoed to the driver in `X-OpenStack-Request-ID`.
    pub global_request_id: Option<String>,
    /// Address to listen on; `None` for all, IPv6 with IPv4 where possible.
    pub listen_host: Option<IpAddr>,
    /// Port to listen on.
    pub listen_port: u16,
    /// Host in the callback URL; found out when `None`.
    pub advertise_host: Option<String>,
    /// Port in the callback URL.
    pub advertise_port: u16,
    /// Scheme in the callback URL when the agent does not make its own identity.
    pub advertise_protocol: String,
    /// Interface whose address is advertised.
    pub network_interface: Option<String>,
    /// Tries to find an own address.
    pub ip_lookup_attempts: u32,
    /// Wait between them.
    pub ip_lookup_timeout: Duration,
    /// Time for all lookups together.
    pub lookup_timeout: Duration,
    /// First interval between lookups.
    pub lookup_interval: Duration,
    /// After this time without a heartbeat the driver misses one; the lookup tells.
    pub heartbeat_timeout: Duration,
    /// Deadline of one request to the API.
    pub http_request_timeout: Duration,
    /// Minor microversion to use, when pinned.
    pub ironic_api_version: Option<u16>,
    /// Believe any certificate of the API and of image servers.
    pub insecure: bool,
    /// PEM file with the authority of the API, from virtual media.
    pub cafile: Option<String>,
    /// Whether the agent may make its own identity.
    pub enable_auto_tls: bool,
    /// Lowest TLS version of the agent's server, before the lookup has its say.
    pub tls_min_version: String,
    /// Where to send the inventory; empty for no inspection.
    pub inspection_callback_urls: Vec<String>,
    /// What to collect for it.
    pub inspection_collectors: Vec<String>,
    /// Tries to find a root disk.
    pub disk_wait_attempts: u32,
    /// Wait between them.
    pub disk_wait_delay: Duration,
    /// Deadline to get the head of an image's answer, and between two pieces of it.
    pub image_timeout: Duration,
    /// Tries after the first to fetch an image.
    pub image_retries: u32,
    /// Wait between them.
    pub image_retry_interval: Duration,
    /// Time for an image in all; `None` for any.
    pub image_max_duration: Option<Duration>,
    /// Bytes of memory for windows and buffers of an image.
    pub image_budget: u64,
    /// Folders from which `file://` images may be read; none unless `ferric.image-root=` names one.
    pub image_roots: Vec<PathBuf>,
    /// Whether MD5 digests are accepted.
    pub md5_enabled: bool,
    /// Go on when boot entries cannot be written.
    pub ignore_bootloader_failure: bool,
    /// Whether legacy boot loaders may be installed.
    pub enable_bios_bootloader_install: bool,
    /// Wait before anything is done with the hardware.
    pub hardware_initialization_delay: Duration,
    /// Log filter: `info`, `debug`, or directives of tracing.
    pub log: String,
    /// The interface that the firmware booted from, in the form of `BOOTIF`.
    pub boot_interface: Option<String>,
    /// What could not be used, for the log.
    pub problems: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::resolve(&Words::default(), &Words::default())
    }
}

impl Settings {
    /// Resolves the words of the kernel command line (virtual media merged in) and of configuration files.
    pub fn resolve(words: &Words, files: &Words) -> Self {
        let mut reader = Reader { words, files, problems: Vec::new() };
        let debug = reader.truth("debug", false);
        let log = words.get("ferric.log").map(str::to_owned);
        let mut settings = Self {
            api_urls: reader.urls("api-url"),
            agent_token: reader.text("agent-token").map(Token::new),
            global_request_id: reader.text("global-request-id"),
            listen_host: reader.listen_host(),
            listen_port: reader.number("listen-port", 9999),
            advertise_host: reader.text("advertise-host"),
            advertise_port: reader.number("advertise-port", 9999),
            advertise_protocol: reader.one_of("advertise-protocol", &["http", "https"]),
            network_interface: reader.text("network-interface"),
            ip_lookup_attempts: reader.number("ip-lookup-attempts", 6),
            ip_lookup_timeout: reader.seconds("ip-lookup-timeout", 10.0),
            lookup_timeout: reader.seconds("lookup-timeout", 600.0),
            lookup_interval: reader.seconds("lookup-interval", 1.0),
            heartbeat_timeout: Duration::from_secs(300),
            http_request_timeout: reader.seconds("http-request-timeout", 30.0),
            ironic_api_version: reader.version(),
            insecure: reader.truth("insecure", false),
            cafile: files.get("cafile").map(str::to_owned),
            enable_auto_tls: reader.truth("enable-auto-tls", true),
            tls_min_version: reader.one_of("tls-min-version", &["1.2", "1.3"]),
            inspection_callback_urls: reader.urls("inspection-callback-url"),
            inspection_collectors: reader.list("inspection-collectors", "default,logs"),
            disk_wait_attempts: reader.number("disk-wait-attempts", 10),
            disk_wait_delay: reader.seconds("disk-wait-delay", 3.0),
            image_timeout: reader.seconds("image-download-connection-timeout", 60.0),
            image_retries: reader.number("image-download-connection-retries", 9),
            image_retry_interval: reader.seconds("image-download-connection-retry-interval", 10.0),
            image_max_duration: None,
            image_budget: disk_image::BUDGET,
            image_roots: words.get("ferric.image-root").map(PathBuf::from).into_iter().collect(),
            md5_enabled: reader.truth("md5-enabled", false),
            ignore_bootloader_failure: reader.truth("ignore-bootloader-failure", false),
            enable_bios_bootloader_install: reader.truth("enable-bios-bootloader-install", false),
            hardware_initialization_delay: reader.seconds("hardware-initialization-delay", 0.0),
            log: log.unwrap_or_else(|| if debug { "debug" } else { "info" }.to_owned()),
            boot_interface: words.get("BOOTIF").map(str::to_owned),
            problems: Vec::new(),
        };
        let max_duration = reader.seconds("image-download-max-duration", 0.0);
        settings.image_max_duration = Some(max_duration).filter(|duration| !duration.is_zero());
        settings.problems = reader.problems;
        settings
    }

    /// Whether there is no driver to talk to.
    pub fn is_standalone(&self) -> bool {
        self.api_urls.is_empty()
    }

    /// Takes over what the lookup reply says. Unknown keys are none of our business, wrong types keep what is there.
    pub fn adopt(&mut self, config: &wire::ramdisk::LookupConfig) {
        if let Some(version) = config.tls_min_version.as_deref() {
            match version {
                "1.2" | "1.3" => self.tls_min_version = version.to_owned(),
                other => tracing::warn!("tls_min_version {other:?} of the lookup is not known and not used"),
            }
        }
        if let Some(enabled) = config.agent_md5_checksum_enable {
            self.md5_enabled = enabled;
        }
        if let Some(true) = config.other.get("enable_bios_bootloader_install").and_then(serde_json::Value::as_bool) {
            self.enable_bios_bootloader_install = true;
        }
    }

    /// A sentence about an image for logs: its name and how many places it can be had from. URLs may carry secrets.
    pub fn describe(info: &ImageInfo) -> String {
        format!("{} ({} URL{})", info.id, info.urls.len(), if info.urls.len() == 1 { "" } else { "s" })
    }
}

struct Reader<'a> {
    words: &'a Words,
    files: &'a Words,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn raw(&self, name: &str) -> Option<&str> {
        let value = self.files.get(&name.replace('-', "_")).or_else(|| self.words.get(&format!("ipa-{name}")));
        value.filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.raw(name).map(str::to_owned)
    }

    fn list(&self, name: &str, default: &str) -> Vec<String> {
        let text = self.raw(name).unwrap_or(default);
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn urls(&mut self, name: &str) -> Vec<String> {
        let mut urls = Vec::new();
        for url in self.list(name, "") {
            if url == "mdns" {
                self.problems.push(format!("ipa-{name}=mdns: this agent does not look for the API by mDNS; give URLs"));
            } else if url.starts_with("http://") || url.starts_with("https://") {
                urls.push(url.trim_end_matches('/').to_owned());
            } else {
                self.problems.push(format!("ipa-{name}: {url:?} is not an http or https URL and is not used"));
            }
        }
        urls
    }

    fn parsed<T: FromStr>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let text = self.raw(name)?.to_owned();
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.problems.push(format!("ipa-{name}={text} is not {wanted}; the default is used"));
        }
        parsed
    }

    fn number<T: FromStr>(&mut self, name: &str, default: T) -> T {
        self.parsed(name, "a number in range").unwrap_or(default)
    }

    fn seconds(&mut self, name: &str, default: f64) -> Duration {
        let seconds: f64 = self.parsed(name, "a number of seconds").unwrap_or(default);
        Duration::try_from_secs_f64(seconds).unwrap_or_else(|_| {
            self.problems.push(format!("ipa-{name}={seconds} is not a number of seconds; {default} is used"));
            Duration::from_secs_f64(default)
        })
    }

    fn truth(&mut self, name: &str, default: bool) -> bool {
        let Some(text) = self.raw(name) else { return default };
        match text.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "on" | "y" | "yes" => true,
            "0" | "f" | "false" | "off" | "n" | "no" => false,
            _ => {
                self.problems.push(format!("ipa-{name}={text} is neither true nor false; {default} is used"));
                default
            }
        }
    }

    fn one_of(&mut self, name: &str, known: &[&str]) -> String {
        let default = known.first().copied().unwrap_or_default();
        match self.raw(name) {
            None => default.to_owned(),
            Some(text) if known.contains(&text) => text.to_owned(),
            Some(text) => {
                let problem = format!("ipa-{name}={text} is not one of {}; {default} is used", known.join(", "));
                self.problems.push(problem);
                default.to_owned()
            }
        }
    }

    fn listen_host(&mut self) -> Option<IpAddr> {
        self.parsed::<IpAddr>("listen-host", "an IP address").filter(|address| !address.is_unspecified())
    }

    fn version(&mut self) -> Option<u16> {
        let text = self.raw("ironic-api-version")?.to_owned();
        let minor = text.strip_prefix("1.").and_then(|minor| minor.parse().ok());
        if minor.is_none() {
            self.problems.push(format!("ipa-ironic-api-version={text} is not of the form 1.N; it is found out"));
        }
        minor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Settings {
        Settings::resolve(&Words::parse(line), &Words::default())
    }

    #[test]
    fn an_empty_command_line_means_standalone_with_the_protocols_defaults() {
        let settings = settings("quiet console=ttyS0");
        assert!(settings.is_standalone());
        assert_eq!(settings.listen_port, 9999);
        assert_eq!(settings.lookup_timeout, Duration::from_secs(600));
        assert_eq!(settings.tls_min_version, "1.2");
        assert!(settings.problems.is_empty());
    }

    #[test]
    fn several_api_urls_are_kept_in_order_without_their_slashes() {
        let settings = settings("ipa-api-url=http://a:6385/,https://[fd00::1]:6385,,ftp://c ipa-debug=1");
        assert_eq!(settings.api_urls, ["http://a:6385", "https://[fd00::1]:6385"]);
        assert_eq!(settings.problems.len(), 1);
        assert!(settings.problems[0].contains("ftp://c"));
        assert_eq!(settings.log, "debug");
    }

    #[test]
    fn values_of_no_use_are_named_and_the_defaults_stay() {
        let settings = settings(
            "ipa-listen-port=http ipa-lookup-timeout=-1 ipa-insecure=maybe ipa-tls-min-version=1.1 \
             ipa-ironic-api-version=2.0 ipa-listen-host=here",
        );
        assert_eq!(settings.listen_port, 9999);
        assert_eq!(settings.lookup_timeout, Duration::from_secs(600));
        assert!(!settings.insecure);
        assert_eq!(settings.tls_min_version, "1.2");
        assert_eq!(settings.problems.len(), 6, "{:#?}", settings.problems);
    }

    #[test]
    fn files_from_media_win_over_the_command_line() {
        let files =
            Words::parse_ini("[DEFAULT]\napi_url = http://media\ncafile = /etc/ironic-python-agent/ironic.crt\n");
        let settings = Settings::resolve(&Words::parse("ipa-api-url=http://line"), &files);
        assert_eq!(settings.api_urls, ["http://media"]);
        assert_eq!(settings.cafile.as_deref(), Some("/etc/ironic-python-agent/ironic.crt"));
    }

    #[test]
    fn the_token_is_not_printed() {
        let settings = settings("ipa-agent-token=0123456789abcdef0123456789abcdef");
        assert!(settings.agent_token.is_some());
        assert!(!format!("{settings:?}").contains("abcdef"));
    }
}
