#!/bin/sh
# Installs pc-switcher on the first machine; further machines get it from there.
#
#   sudo sh install.sh [PATH-OF-THE-BINARY]     installs, or upgrades; running it twice changes nothing
#   sudo sh install.sh --uninstall              removes what was installed; state and snapshots stay
#
# Without a path the binary is looked for beside this script. Nothing is downloaded.
# DESTDIR and SUDOERS_USER may be set; the sudoers line is for SUDOERS_USER, by default the user of sudo.
set -eu
umask 022

dest=${DESTDIR:-}
lib=/usr/local/lib/pc-switcher
stable=/usr/local/bin/pc-switcher
short=/usr/local/bin/bt
sudoers_dir=/etc/sudoers.d
units=/etc/systemd/system
# Each with the target that starts it.
boot_units="pc-switcher-redo.service:multi-user.target pc-switcher-rollback.service:sysinit.target"
man=/usr/local/share/man/man1
bash_completions=/usr/local/share/bash-completion/completions
zsh_completions=/usr/local/share/zsh/site-functions
fish_completions=/usr/local/share/fish/vendor_completions.d

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

uninstall() {
  # Timers, hooks and what the initramfs has of it start a program that goes.
  if [ -z "$dest" ] && [ -x "$stable" ] && [ -e /etc/pc-switcher/config.toml ]; then
    "$stable" snapshots auto off </dev/null || fail "what \`snapshots auto on\` installed is still there, so nothing is removed"
  fi
  for entry in $boot_units; do
    unit=${entry%:*}
    boot_link=$units/${entry#*:}.wants/$unit
    [ ! -L "$dest$boot_link" ] || { rm -f -- "$dest$boot_link" && echo "removed $dest$boot_link"; }
    # A link here is the user's own: the unit is masked.
    if [ -f "$dest$units/$unit" ] && [ ! -L "$dest$units/$unit" ]; then
      rm -f -- "$dest$units/$unit" && echo "removed $dest$units/$unit"
    fi
  done
  for file in "$dest$man"/pc-switcher*.1 "$dest$bash_completions/pc-switcher" \
    "$dest$zsh_completions/_pc-switcher" "$dest$fish_completions/pc-switcher.fish" \
    "$dest$sudoers_dir"/pc-switcher-*; do
    [ ! -e "$file" ] || { rm -f -- "$file" && echo "removed $file"; }
  done
  if [ "$(readlink "$dest$short" 2>/dev/null)" = pc-switcher ]; then
    rm -f -- "$dest$short" && echo "removed $dest$short"
  fi
  if [ -L "$dest$stable" ]; then
    case $(readlink "$dest$stable") in
      "$lib"/*) rm -f -- "$dest$stable" && echo "removed $dest$stable" ;;
    esac
  fi
  [ ! -d "$dest$lib" ] || { rm -rf -- "$dest$lib" && echo "removed $dest$lib"; }
  echo "state in /var/lib/pc-switcher and snapshots are left as they are"
}

# Puts a file at its place whole or not at all: MODE FROM TO.
put() {
  if [ -f "$3" ] && [ ! -L "$3" ] && cmp -s "$2" "$3" && [ "$(stat -c %a "$3")" = "$1" ]; then
    return 0
  fi
  mkdir -p "${3%/*}"
  temp=$(mktemp "${3%/*}/.pc-switcher-XXXXXXXX")
  trap 'rm -f "$temp"' EXIT
  cp -- "$2" "$temp"
  chmod "$1" "$temp"
  sync "$temp" 2>/dev/null || sync
  mv -fT -- "$temp" "$3"
  trap - EXIT
  echo "wrote $3"
}

# Installs an optional file of the release: FROM TO.
optional() {
  [ ! -f "$1" ] || put 644 "$1" "$2"
}

# Makes each boot bring a sync or a rollback that was cut off to its end, as a sync does on the other machine: UNIT TARGET. A
# masked unit stays masked.
each_boot() {
  unit=$1
  boot_link=$units/$2.wants/$unit
  [ -d "$dest$units" ] && [ ! -L "$dest$units/$unit" ] || return 0
  [ -e "$dest/usr/lib/systemd/systemd" ] || [ -e "$dest/lib/systemd/systemd" ] || return 0
  draft=$(mktemp)
  if ! "$binary" agent --print-unit "$unit" </dev/null >"$draft"; then
    rm -f "$draft"
    fail "\`$binary\` does not print the unit for the boot; give a binary of the same release as this script"
  fi
  put 644 "$draft" "$dest$units/$unit"
  rm -f "$draft"
  if [ "$(readlink "$dest$boot_link" 2>/dev/null)" != "../$unit" ]; then
    mkdir -p "$dest${boot_link%/*}"
    # A name that systemd does not take for a unit.
    ln -sfn -- "../$unit" "$dest${boot_link%/*}/.pc-switcher.new"
    mv -fT -- "$dest${boot_link%/*}/.pc-switcher.new" "$dest$boot_link"
    echo "each boot starts $unit"
  fi
}

# Lets the user start the agent, and nothing else, without a password. The grant equals root.
grant() {
  user=$1
  # One file a user, under a name that sudo reads; the same that a sync writes on the other machine.
  sudoers=$sudoers_dir/pc-switcher-$(printf '%s' "$user" | sed 's/[^A-Za-z0-9_$-]/+/g')
  name=$(printf '%s' "$user" | sed 's/[^A-Za-z0-9_.-]/\\&/g')
  line="$name ALL=(root) NOPASSWD: $stable agent"
  draft=$(mktemp)
  printf '%s\n' "$line" >"$draft"
  if ! command -v visudo >/dev/null; then
    rm -f "$draft"
    fail "visudo is missing, so no sudoers line was written; install sudo and run this again"
  fi
  if ! visudo -cqf "$draft" >/dev/null 2>&1; then
    rm -f "$draft"
    fail "visudo refuses the line \`$line\`; nothing was written to $sudoers"
  fi
  put 440 "$draft" "$dest$sudoers"
  rm -f "$draft"
}

case ${1:-} in
  -h | --help)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  --uninstall)
    [ -n "$dest" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo sh $0 --uninstall"
    uninstall
    exit 0
    ;;
  -*) fail "\`$1\` is no option; see --help" ;;
esac

[ -n "$dest" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo sh $0 ${1:-}"
here=$(dirname "$0")
binary=${1:-$here/pc-switcher}
[ -f "$binary" ] || fail "there is no binary at \`$binary\`; give its path"
[ -x "$binary" ] || fail "\`$binary\` is not executable"
says=$("$binary" --version </dev/null 2>&1) || fail "\`$binary\` does not run on this machine ($(uname -m)): $says"
version=$(printf '%s\n' "$says" | sed -n '1s/^pc-switcher \([0-9][0-9A-Za-z.+-]*\)$/\1/p')
[ -n "$version" ] || fail "\`$binary\` is not pc-switcher: it says \`$says\`"

put 755 "$binary" "$dest$lib/$version/pc-switcher"
if [ "$(readlink "$dest$stable" 2>/dev/null)" != "$lib/$version/pc-switcher" ]; then
  [ ! -d "$dest$stable" ] || [ -L "$dest$stable" ] || fail "\`$dest$stable\` is a directory"
  mkdir -p "$dest${stable%/*}"
  ln -sfn -- "$lib/$version/pc-switcher" "$dest$stable.new-$$"
  mv -fT -- "$dest$stable.new-$$" "$dest$stable"
  echo "linked $dest$stable to $lib/$version/pc-switcher"
fi
# The vault by its own name; another program of that name stays.
if [ ! -e "$dest$short" ] && [ ! -L "$dest$short" ]; then
  ln -s -- pc-switcher "$dest$short"
  echo "linked $dest$short to pc-switcher"
elif [ "$(readlink "$dest$short" 2>/dev/null)" != pc-switcher ]; then
  echo "$dest$short is another program and stays; \`pc-switcher vault\` is the same as \`bt\`" >&2
fi
release=$(dirname "$binary")
for page in "$release"/man/pc-switcher*.1; do
  optional "$page" "$dest$man/$(basename "$page")"
done
optional "$release/completions/pc-switcher.bash" "$dest$bash_completions/pc-switcher"
optional "$release/completions/_pc-switcher" "$dest$zsh_completions/_pc-switcher"
optional "$release/completions/pc-switcher.fish" "$dest$fish_completions/pc-switcher.fish"
for entry in $boot_units; do
  each_boot "${entry%:*}" "${entry#*:}"
done

user=${SUDOERS_USER:-${SUDO_USER:-}}
if [ -n "$user" ] && [ "$user" != root ]; then
  grant "$user"
else
  echo "no sudoers line was written: run it through sudo, or set SUDOERS_USER to the user who will sync"
fi
echo "pc-switcher $version is installed"
