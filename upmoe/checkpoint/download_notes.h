#pragma once

namespace upmoe {

// Where the hub's download of a checkpoint notes what it did, in the checkpoint's folder.
inline constexpr const char* kDownloadNotes = ".cache";

// Whether nothing but such notes stands there; of an open folder with that entry.
bool holds_download_notes_only(int checkpoint);

// Deletes the notes, and the folders that are empty then, but for kDownloadNotes itself.
void remove_download_notes(int checkpoint);

}  // namespace upmoe
