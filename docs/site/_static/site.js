// From a disk (file://) a browser may not fetch the pages that a search has found: their titles are shown alone.
if (window.location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
